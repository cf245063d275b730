/* The throttled server of the benchmarks: one thread, epoll, sendfile, HTTP/1.1 on 127.0.0.1.

   origin FOLDER [KEY=NUMBER]...      writes its port to stdout; ends when its stdin ends

   rate          bytes per second of each connection, kept by the kernel (SO_MAX_PACING_RATE)
   slow_every, slow          each slow_every-th connection has the rate `slow` instead
   collapse, collapse_after, collapse_rate    connection number `collapse` changes its rate after that many bytes
   limit, rst    requests answered at once; more get 503, or with rst=1 a reset
   reset_after   each connection is reset after half to three halves of so many bytes
   rtt           round trip in microseconds: a connection's first answer begins after two of them (one is the handshake), each
                 later one after one; what is in flight is bounded by a window that begins with 10 segments, doubles each
                 round trip as TCP's does, and ends at `window` bytes
   link          bytes per second of all connections together, shared fairly

   GET /-stats tells as JSON what was counted since GET /-reset; such connections are not counted. `sent` is what the clients'
   kernels have acknowledged, heads included; `cpu_us` is this process's own time: the proof that it is not the bottleneck. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 8 << 10, SEGMENT = 1448, TURN = 1 << 20, SLICE = 16 << 10, ACKS = 256, CONNECTIONS = 4096 };

struct ack {
    long long at, bytes;
};

struct connection {
    int fd, number, control, answering, writable, file, answered;
    int active;               /* whether it is one of the requests that `limit` counts */
    long long begin;          /* when the answer may begin, ns */
    long long at, stop;       /* of the file */
    long long body, collapses, resets;
    long long window, flight; /* bytes */
    struct ack acks[ACKS];    /* a ring */
    int first_ack, held_acks;
    int in, out, out_at;
    char request[HEAD], head[1024];
};

static struct { const char *name; long long value; } options[] = {
    {"rate", 0}, {"slow_every", 0}, {"slow", 0}, {"collapse", 0}, {"collapse_after", 0}, {"collapse_rate", 0}, {"limit", 0},
    {"rst", 0}, {"reset_after", 0}, {"rtt", 0}, {"window", 4 << 20}, {"link", 0},
};
enum { RATE, SLOW_EVERY, SLOW, COLLAPSE, COLLAPSE_AFTER, COLLAPSE_RATE, LIMIT, RST, RESET_AFTER, RTT, WINDOW, LINK, OPTIONS };
#define OPTION(which) (options[which].value)

static struct connection *all[CONNECTIONS];
static int count, turn, active, folder, poll_fd, numbers;
static long long requests, connections, refused, resets, acknowledged, first_request, cpu_before;
static double tokens;
static long long filled;
static unsigned long long chance = 88172645463325252ULL;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long cpu(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static long long acked(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof info;
    memset(&info, 0, sizeof info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) ? 0 : (long long)info.tcpi_bytes_acked;
}

static void pace(int fd, long long rate)
{
    unsigned int value = rate > 0 && rate < 0xffffffffLL ? (unsigned int)rate : ~0u;
    setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &value, sizeof value);
}

static void drop(struct connection *c, int rst)
{
    if (rst) {
        struct linger hard = {1, 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    if (!c->control && c->number)
        acknowledged += acked(c->fd);
    active -= c->active;
    if (c->file >= 0)
        close(c->file);
    close(c->fd);
    for (int i = 0; i < count; i++)
        if (all[i] == c)
            all[i] = all[--count];
    free(c);
}

/* Wait for the socket to become writable, or stop to. */
static void watch(struct connection *c, int writable)
{
    if (c->writable == writable)
        return;
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &event);
    c->writable = writable;
}

static int ticking(void) { return OPTION(RTT) || OPTION(LINK); }

/* The answer is with the client, as far as `limit` is concerned: what waits in the socket's buffer is still being sent. */
static int finish(struct connection *c)
{
    int waiting = 0;
    if (c->active && OPTION(LIMIT) && !ioctl(c->fd, SIOCOUTQ, &waiting) && waiting)
        return 0;
    active -= c->active;
    c->active = c->answering = 0;
    if (c->file >= 0)
        close(c->file);
    c->file = -1;
    return 1;
}

static int sent_all(const struct connection *c) { return c->at >= c->stop && c->out_at == c->out; }

/* Send what may be sent, at most `most` bytes of body. Returns the bytes of body, or -1 when the connection is gone. */
static long long feed(struct connection *c, long long most, long long t)
{
    if (t < c->begin)
        return 0;
    while (c->out_at < c->out) {
        ssize_t n = send(c->fd, c->head + c->out_at, (size_t)(c->out - c->out_at), MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN)
                return 0;
            return drop(c, 0), -1;
        }
        c->out_at += (int)n;
    }
    long long sent = 0;
    while (c->at < c->stop && sent < most) {
        long long n = c->stop - c->at < most - sent ? c->stop - c->at : most - sent;
        if (OPTION(RTT)) {
            if (n > c->window - c->flight)
                n = c->window - c->flight;
            if (c->held_acks == ACKS && n > 0)
                n = 0;
        }
        if (c->resets && n > c->resets - c->body)
            n = c->resets - c->body;
        if (n <= 0)
            break;
        off_t from = c->at;
        ssize_t done = sendfile(c->fd, c->file, &from, (size_t)n);
        if (done <= 0) {
            if (done < 0 && errno == EAGAIN)
                break;
            return drop(c, 0), -1;
        }
        c->at += done, c->body += done, sent += done;
        if (OPTION(RTT)) {
            c->flight += done;
            struct ack *last = c->held_acks ? &c->acks[(c->first_ack + c->held_acks - 1) % ACKS] : NULL;
            if (last && last->at > t + OPTION(RTT) * 1000 - 1000000)
                last->bytes += done; /* of the same millisecond */
            else
                c->acks[(c->first_ack + c->held_acks++) % ACKS] = (struct ack){t + OPTION(RTT) * 1000, done};
        }
        if (c->collapses && c->body >= c->collapses) {
            pace(c->fd, OPTION(COLLAPSE_RATE));
            c->collapses = 0;
        }
        if (c->resets && c->body >= c->resets) {
            resets++;
            return drop(c, 1), -1;
        }
    }
    if (sent_all(c))
        finish(c);
    return sent;
}

static void stats(struct connection *c)
{
    char body[512];
    long long sent = acknowledged;
    for (int i = 0; i < count; i++)
        if (all[i]->number && !all[i]->control)
            sent += acked(all[i]->fd);
    int n = snprintf(body, sizeof body,
                     "{\"sent\": %lld, \"requests\": %lld, \"connections\": %lld, \"refused\": %lld, \"resets\": %lld, "
                     "\"first_request_ns\": %lld, \"cpu_us\": %lld, \"active\": %d}",
                     sent, requests, connections, refused, resets, first_request, cpu() - cpu_before, active);
    c->out = snprintf(c->head, sizeof c->head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body);
}

static void reset_counters(void)
{
    requests = connections = refused = resets = acknowledged = first_request = 0;
    numbers = 0;
    cpu_before = cpu();
    for (int i = 0; i < count; i++)
        if (!all[i]->control)
            all[i]->number = 0; /* of an earlier run: what it still does is not counted */
}

static void begin_connection(struct connection *c)
{
    c->number = ++numbers;
    connections++;
    long long rate = OPTION(RATE);
    if (OPTION(SLOW_EVERY) && c->number % OPTION(SLOW_EVERY) == 0)
        rate = OPTION(SLOW);
    if (rate)
        pace(c->fd, rate);
    if (OPTION(COLLAPSE) == c->number)
        c->collapses = OPTION(COLLAPSE_AFTER);
    if (OPTION(RESET_AFTER)) {
        chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
        c->resets = OPTION(RESET_AFTER) / 2 + (long long)(chance % (unsigned long long)OPTION(RESET_AFTER));
    }
}

/* One complete request is in c->request; returns -1 when the connection is gone. */
static int answer(struct connection *c, long long t)
{
    char method[8], path[1024];
    c->out = c->out_at = 0, c->at = c->stop = 0, c->begin = 0;
    if (sscanf(c->request, "%7s %1023s", method, path) != 2)
        return drop(c, 0), -1;
    c->answering = 1;
    if (!strncmp(path, "/-", 2)) {
        c->control = 1;
        if (!strcmp(path, "/-reset"))
            reset_counters();
        stats(c);
        return feed(c, 0, t) < 0 ? -1 : 0;
    }
    if (!c->number)
        begin_connection(c);
    requests++, active++, c->active = 1;
    if (!first_request)
        first_request = t;
    if (OPTION(RTT))
        c->begin = t + OPTION(RTT) * 1000 * (c->answered ? 1 : 2);
    c->answered = 1;
    if (OPTION(LIMIT) && active > OPTION(LIMIT)) {
        refused++, active--, c->active = 0;
        if (OPTION(RST))
            return drop(c, 1), -1;
        c->out = snprintf(c->head, sizeof c->head, "HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nbusy\n");
        return feed(c, 0, t) < 0 ? -1 : 0;
    }
    struct stat facts;
    const char *name = path + 1;
    c->file = strchr(name, '/') || name[0] == '.' ? -1 : openat(folder, name, O_RDONLY | O_CLOEXEC);
    if (c->file < 0 || fstat(c->file, &facts)) {
        c->out = snprintf(c->head, sizeof c->head, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        return feed(c, 0, t) < 0 ? -1 : 0;
    }
    long long first = 0, last = facts.st_size - 1, end;
    const char *range = strcasestr(c->request, "\r\nRange:");
    if (range) {
        range += 8;
        while (*range == ' ')
            range++;
        if (sscanf(range, "bytes=-%lld", &end) == 1)
            first = end < facts.st_size ? facts.st_size - end : 0;
        else if (sscanf(range, "bytes=%lld-%lld", &first, &end) == 2)
            last = end < last ? end : last;
        else if (sscanf(range, "bytes=%lld-", &first) != 1)
            range = NULL;
    }
    if (range && (first > last || first < 0)) {
        c->out = snprintf(c->head, sizeof c->head,
                          "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */%lld\r\nContent-Length: 0\r\n\r\n",
                          (long long)facts.st_size);
        return feed(c, 0, t) < 0 ? -1 : 0;
    }
    char content_range[128] = "";
    if (range)
        snprintf(content_range, sizeof content_range, "Content-Range: bytes %lld-%lld/%lld\r\n", first, last,
                 (long long)facts.st_size);
    c->out = snprintf(c->head, sizeof c->head,
                      "HTTP/1.1 %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %lld\r\n"
                      "ETag: \"%llx-%llx\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nAccept-Ranges: bytes\r\n%s\r\n",
                      range ? "206 Partial Content" : "200 OK", last - first + 1, (long long)facts.st_size,
                      (long long)facts.st_ino, content_range);
    if (strcmp(method, "HEAD"))
        c->at = first, c->stop = last + 1;
    return 0;
}

/* Read requests, answer one after the other; returns -1 when the connection is gone. */
static int hear(struct connection *c, long long t)
{
    ssize_t n = recv(c->fd, c->request + c->in, (size_t)(HEAD - 1 - c->in), 0);
    if (n <= 0) {
        if (n < 0 && errno == EAGAIN)
            return 0;
        return drop(c, 0), -1;
    }
    c->in += (int)n;
    c->request[c->in] = 0;
    char *end = strstr(c->request, "\r\n\r\n");
    if (!end)
        return c->in < HEAD - 1 ? 0 : (drop(c, 0), -1);
    if (c->answering && sent_all(c)) {
        active -= c->active; /* who asks again has got it all */
        c->active = 0;
        finish(c);
    }
    if (c->answering)
        return 0; /* pipelined: nobody does that here */
    if (answer(c, t) < 0)
        return -1;
    c->in = 0;
    return 0;
}

static void serve(struct connection *c, long long t)
{
    if (!c->answering || ticking())
        return;
    if (feed(c, TURN, t) >= 0)
        watch(c, c->answering && !sent_all(c));
}

/* Every millisecond, where there is a limit, a round trip or a common link. */
static void tick(long long t)
{
    for (int i = 0; OPTION(LIMIT) && i < count; i++)
        if (all[i]->active && sent_all(all[i]))
            finish(all[i]);
    if (!ticking())
        return;
    for (int i = 0; i < count; i++) {
        struct connection *c = all[i];
        while (c->held_acks && c->acks[c->first_ack].at <= t) {
            long long bytes = c->acks[c->first_ack].bytes;
            c->flight -= bytes;
            c->window = c->window + bytes < OPTION(WINDOW) ? c->window + bytes : OPTION(WINDOW);
            c->first_ack = (c->first_ack + 1) % ACKS, c->held_acks--;
        }
    }
    if (OPTION(LINK)) {
        double most = (double)OPTION(LINK) * 0.005 + SLICE;
        tokens += (double)OPTION(LINK) * (double)(t - filled) / 1e9;
        tokens = tokens < most ? tokens : most;
    }
    filled = t;
    for (int moved = 1; moved;) {
        moved = 0;
        turn++;
        for (int k = 0, n = count; k < n && k < count; k++) {
            struct connection *c = all[(k + turn) % count];
            if (!c->answering)
                continue;
            long long most = OPTION(LINK) ? (tokens < SLICE ? 0 : SLICE) : TURN;
            long long sent = feed(c, most, t);
            if (sent > 0)
                tokens -= (double)sent, moved = 1;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 2 || (folder = open(argv[1], O_RDONLY | O_DIRECTORY)) < 0)
        return fprintf(stderr, "usage: origin FOLDER [KEY=NUMBER]...\n"), 2;
    for (int i = 2; i < argc; i++) {
        int known = 0;
        for (int k = 0; k < OPTIONS; k++) {
            size_t length = strlen(options[k].name);
            if (!strncmp(argv[i], options[k].name, length) && argv[i][length] == '=')
                options[k].value = atoll(argv[i] + length + 1), known = 1;
        }
        if (!known)
            return fprintf(stderr, "origin: what is %s?\n", argv[i]), 2;
    }
    int segment = SEGMENT;
    signal(SIGPIPE, SIG_IGN); /* sendfile to a client that has gone */
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (OPTION(RATE)) /* the kernel paces from the eleventh packet on, and loopback's packets have 64 KiB */
        setsockopt(listener, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        return perror("origin"), 1;
    poll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = NULL;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, 0, &event);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int busy = (ticking() || OPTION(LIMIT)) && active > 0;
        int n = epoll_wait(poll_fd, events, 64, busy ? 1 : -1);
        long long t = now();
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                char byte;
                if (read(0, &byte, 1) <= 0)
                    return 0;
            } else if (events[i].data.ptr == &listener) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), buffer = 256 << 10;
                if (fd < 0)
                    continue;
                c = count < CONNECTIONS ? calloc(1, sizeof *c) : NULL;
                if (!c) {
                    close(fd);
                    continue;
                }
                c->fd = fd, c->file = -1, c->window = 10 * SEGMENT;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (OPTION(RATE) || OPTION(RESET_AFTER))
                    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
                all[count++] = c;
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
            } else {
                if (events[i].events & (EPOLLHUP | EPOLLERR))
                    drop(c, 0);
                else if (!(events[i].events & EPOLLIN) || hear(c, t) == 0)
                    serve(c, t);
            }
        }
        if (ticking() || OPTION(LIMIT))
            tick(t);
    }
}
