/* The floor for many files: keep-alive connections that take one file after the other.

   floor_many HOST PORT FOLDER CONNECTIONS PATH...

   One thread, epoll, recv and pwrite; each file goes to FOLDER under the last part of its path. Whatever is unusual ends it with
   status 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, HEAD = 8 << 10 };

struct stream {
    int fd, file, held, body;
    long long at, stop;
    char head[HEAD];
};

static char buffer[BUFFER];
static char **paths;
static int next_path, count;
static const char *host, *port, *folder;

static void die(const char *what)
{
    fprintf(stderr, "floor_many: %s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

/* Ask for the next file; returns 0 when there is none. */
static int ask(struct stream *s)
{
    char request[2048], name[4096];
    if (next_path == count)
        return 0;
    const char *path = paths[next_path++], *last = strrchr(path, '/');
    snprintf(name, sizeof name, "%s/%s", folder, last ? last + 1 : path);
    s->file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (s->file < 0)
        die(name);
    s->held = s->body = 0, s->at = 0;
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", path, host, port);
    if (send(s->fd, request, (size_t)n, 0) != n)
        die("send");
    return 1;
}

static void store(struct stream *s, const char *data, size_t length)
{
    if ((long long)length > s->stop - s->at)
        die("more than was announced");
    while (length) {
        ssize_t n = pwrite(s->file, data, length, s->at);
        if (n <= 0)
            die("pwrite");
        data += n, length -= (size_t)n, s->at += n;
    }
}

/* Take what has come; returns 0 when this connection is done for good. */
static int take(struct stream *s)
{
    ssize_t n = s->body ? recv(s->fd, buffer, BUFFER, 0) : recv(s->fd, s->head + s->held, (size_t)(HEAD - 1 - s->held), 0);
    if (n < 0 && errno == EAGAIN)
        return 1;
    if (n <= 0)
        die("recv");
    if (s->body) {
        store(s, buffer, (size_t)n);
    } else {
        s->held += (int)n;
        s->head[s->held] = 0;
        char *end = strstr(s->head, "\r\n\r\n"), *length;
        if (!end)
            return 1;
        length = strcasestr(s->head, "\r\nContent-Length:");
        if (strncmp(s->head, "HTTP/1.1 200", 12) || !length || length > end)
            die("not a 200 with its length");
        s->stop = atoll(length + 17), s->body = 1, end += 4;
        store(s, end, (size_t)(s->head + s->held - end));
    }
    if (s->at < s->stop)
        return 1;
    close(s->file);
    return ask(s);
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return fprintf(stderr, "usage: floor_many HOST PORT FOLDER CONNECTIONS PATH...\n"), 2;
    host = argv[1], port = argv[2], folder = argv[3], paths = argv + 5, count = argc - 5;
    int connections = atoi(argv[4]), poll = epoll_create1(0), left = 0;
    if (connections > count)
        connections = count;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    if (poll < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1)
        die("HOST must be an IPv4 address");
    struct stream *streams = calloc((size_t)connections, sizeof *streams);
    if (!streams)
        die("memory");
    for (int i = 0; i < connections; i++) {
        struct stream *s = &streams[i];
        int one = 1;
        s->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&address, sizeof address))
            die("connect");
        setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        left += ask(s);
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
            if (!take(s)) {
                close(s->fd);
                left--;
            }
        }
    }
    return 0;
}
