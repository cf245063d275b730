/* The floor: how fast a program in C can be that does nothing but receive and write.

   floor [-s] HOST PORT PATH SIZE CONNECTIONS FILE [CACERT]

   One thread, epoll, one range of the file for each connection, blocks reserved, recv and pwrite by the MiB: 2 MiB gain
   nothing, and 256 KiB cost a sixth more. With CACERT it speaks TLS (compiled with
   -DTLS -lssl -lcrypto). With -s it waits for the disk at the end. It knows nothing of retries, limits
   or resuming: whatever is unusual ends it with status 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#endif

enum { BUFFER = 1 << 20, HEAD = 8 << 10 };

struct stream {
    int fd;
    long long at, stop;  /* file offsets: the next byte, and the first that is not ours */
    int body;            /* whether the head is complete */
    int held;            /* bytes of the head so far */
    char head[HEAD];
#ifdef TLS
    SSL *tls;
#endif
};

static char buffer[BUFFER];

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

/* Like recv: 0 at the end, -1 when there is nothing now. */
static ssize_t receive(struct stream *s, char *to, size_t room)
{
#ifdef TLS
    if (s->tls) {
        size_t got = 0, n = 0;
        while (got < room && SSL_read_ex(s->tls, to + got, room - got, &n) == 1)
            got += n;
        if (got)
            return (ssize_t)got;
        int why = SSL_get_error(s->tls, 0);
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
            return -1;
        return 0;
    }
#endif
    ssize_t n = recv(s->fd, to, room, 0);
    if (n < 0 && errno != EAGAIN)
        die("recv");
    return n;
}

static void store(struct stream *s, int file, const char *data, size_t length)
{
    if ((long long)length > s->stop - s->at)
        die("more than was asked for");
    while (length) {
        ssize_t n = pwrite(file, data, length, s->at);
        if (n <= 0)
            die("pwrite");
        data += n, length -= (size_t)n, s->at += n;
    }
}

/* Take what has come; returns whether the connection has all its bytes. */
static int take(struct stream *s, int file)
{
    ssize_t n;
    if (!s->body) {
        n = receive(s, s->head + s->held, (size_t)(HEAD - 1 - s->held));
        if (n == 0)
            die("closed in the head");
        if (n < 0)
            return 0;
        s->held += (int)n;
        s->head[s->held] = 0;
        char *end = strstr(s->head, "\r\n\r\n");
        if (!end) {
            if (s->held == HEAD - 1)
                die("a long head");
            return 0;
        }
        if (strncmp(s->head, "HTTP/1.1 206", 12))
            die("not a 206");
        s->body = 1;
        end += 4;
        store(s, file, end, (size_t)(s->head + s->held - end));
        if (s->at == s->stop)
            return 1;
    }
    n = receive(s, buffer, BUFFER);
    if (n == 0)
        die("closed before the end");
    if (n > 0)
        store(s, file, buffer, (size_t)n);
    return s->at == s->stop;
}

int main(int argc, char **argv)
{
    int synced = argc > 1 && !strcmp(argv[1], "-s");
    argc -= synced, argv += synced;
    if (argc < 7)
        return fprintf(stderr, "usage: floor [-s] HOST PORT PATH SIZE CONNECTIONS FILE [CACERT]\n"), 2;
    long long size = atoll(argv[4]);
    int count = atoi(argv[5]);
    if (size < count)
        count = size ? (int)size : 1;
    int file = open(argv[6], O_RDWR | O_CREAT | O_TRUNC, 0644), poll = epoll_create1(0), left = count;
    struct stream *streams = calloc((size_t)count, sizeof *streams);
    if (file < 0 || poll < 0 || !streams || ftruncate(file, size))
        die("cannot begin");
    if (size && fallocate(file, 0, 0, size) && errno != EOPNOTSUPP)
        die("fallocate");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        die("HOST must be an IPv4 address");
#ifdef TLS
    SSL_CTX *context = NULL;
    if (argc > 7) {
        context = SSL_CTX_new(TLS_client_method());
        if (!context || SSL_CTX_load_verify_locations(context, argv[7], NULL) != 1)
            die("CACERT");
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    }
#else
    if (argc > 7)
        return fprintf(stderr, "floor: built without TLS\n"), 2;
#endif
    for (int i = 0; i < count; i++) {
        struct stream *s = &streams[i];
        char request[2048];
        int one = 1;
        s->at = size * i / count, s->stop = size * (i + 1) / count;
        s->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&address, sizeof address))
            die("connect");
        setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nRange: bytes=%lld-%lld\r\n\r\n", argv[3],
                         argv[1], argv[2], s->at, s->stop - 1);
#ifdef TLS
        if (context) {
            s->tls = SSL_new(context);
            if (!s->tls || !SSL_set_fd(s->tls, s->fd) || SSL_connect(s->tls) != 1)
                die("TLS");
            if (SSL_write(s->tls, request, n) != n)
                die("send");
        } else
#endif
            if (send(s->fd, request, (size_t)n, 0) != n)
                die("send");
        fcntl(s->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
        epoll_ctl(poll, EPOLL_CTL_ADD, s->fd, &event);
    }
    while (left) {
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, 60000);
        if (n == 0)
            die("silence for a minute");
        for (int i = 0; i < n; i++) {
            struct stream *s = events[i].data.ptr;
            if (take(s, file)) {
                epoll_ctl(poll, EPOLL_CTL_DEL, s->fd, NULL);
                close(s->fd);
                left--;
            }
        }
    }
    if (synced && fdatasync(file))
        die("fdatasync");
    return 0;
}
