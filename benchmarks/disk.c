/* The disk alone: how long it takes to make as many bytes durable that were there all the time.

   disk SIZE FILE

   Blocks are reserved, and two threads write MiB by MiB past the page cache, so that the disk always has the next one; then
   fdatasync. Where nothing can be written past the page cache (tmpfs) it is written through it. SIZE is rounded up to whole MiB;
   the content is random, since some disks are faster with zeros, and the same in each MiB. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, THREADS = 2 };

static int file;
static long long size;
static atomic_llong next;
static _Alignas(4096) char block[BLOCK];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void *write_blocks(void *nothing)
{
    for (long long at; (at = atomic_fetch_add(&next, BLOCK)) < size;)
        if (pwrite(file, block, BLOCK, at) != BLOCK)
            die("pwrite");
    return nothing;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return fprintf(stderr, "usage: disk SIZE FILE\n"), 2;
    size = (atoll(argv[1]) + BLOCK - 1) / BLOCK * BLOCK;
    file = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0644);
    if (file < 0)
        file = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || posix_fallocate(file, 0, size))
        die(argv[2]);
    for (size_t made = 0; made < BLOCK;) {
        ssize_t n = getrandom(block + made, BLOCK - made, 0);
        if (n < 0)
            die("getrandom");
        made += (size_t)n;
    }
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, write_blocks, NULL))
            die("pthread_create");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (fdatasync(file))
        die("fdatasync");
    return 0;
}
