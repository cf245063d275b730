/* The hot path: libcurl's bytes into the part file, without one line of Python per block, and
 * one call of Python for each STRIDE bytes.
 *
 *   libcurl -- block --> Sink(block)
 *                          | HOLD: pause    FULL, FAILED, CLOSED: cut
 *                          v ARMED
 *                        take -- bounds: row -> position, limit = least of stop and size
 *                          |
 *          +---------------+-----------------+----------------------------+
 *          | overlap, map or a large block   | small block, PWRITE        | cursor at limit
 *          |                                 v                            v
 *          |                  stash: into the gather buffer,   drain, keep `seam` bytes for the owner,
 *          |                  itself into `dirty`              state FULL, short count
 *          v                                 |
 *        place <----- drain: buffer full, ---+
 *          |          flush() or limit
 *          +- below position: compare with the file; a difference fails the sink
 *          +- at position:    write_map or write_file, then advance: bytes first, position second
 *          +- from limit on:  drop
 *
 * Rules:
 *   - `bounds` alone says what may be written, `place` alone has it written, `advance` alone moves `position`.
 *     Whatever arrives, nothing is written outside [position, least of stop and size).
 *   - What comes after the row's stop is never written; `seam` bytes of it are kept for the owner to compare.
 *   - A row is read anew for every piece: its owner may lower `stop`, and a second sink may move `position`.
 *   - No allocation and no exception per block. What goes wrong ends in FAILED, with an errno or a mismatch.
 *   - The GIL is let go around pwrite, pread and madvise, and in the owner's `hand_down`;
 *     `busy` keeps other threads out of the sink meanwhile.
 *   - fastidm/storage/sink.py has the same thing in Python and documents it; the same tests run on both.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif
#include <time.h>

/* 128 KiB: shorter writes pay for system calls; longer ones were measured to cost up to twenty times as much per byte
 * on virtual machines, whose hosts back large page-cache folios late. A gathering ends at a multiple of this in the
 * file, as misaligned writes are cut into small folios: a fifth more (m: 1 GiB in ragged bursts 0.18 s, else 0.23). */
#define GATHER (128 << 10)
/* Pages of the map are made ready in such steps: the same length for the same reasons. */
#define POPULATE_STEP (128 << 10)
/* Windows lie at multiples of this, in the file and, if they can, in memory: a folio across two page tables is mapped page by
 * page (m: 1 GiB 0.23 s, else up to 0.46). Longer ones save no time, and their pages count as resident memory. */
#define WINDOW (512 << 10)
/* So much is handed down to the disk at once: what the kernel keeps about each page is still in the processor's cache then
 * (m: 1 GiB that is to be synced 0.50 s, with 512 KiB 0.54, with 32 MiB 0.69). A map gains nothing. */
#define STRIDE (2 << 20)
/* A ceiling for both, so that sums stay far from overflow. */
#define LARGEST (1 << 30)
/* Gather buffers kept for the next sink. Flushing after each event keeps one hot; the others are slack. */
#define SPARES 8
/* Kept in memory, so it is to be short. */
#define LONGEST_SEAM (64 << 10)
/* One block of libcurl, and small enough for any thread's stack. */
#define COMPARE_STEP (16 << 10)
/* CURL_WRITEFUNC_PAUSE */
#define PAUSE 0x10000001

#if defined(__linux__) && !defined(MADV_POPULATE_WRITE)
#define MADV_POPULATE_READ 22 /* Linux 5.14; older headers lack the names, older kernels answer EINVAL */
#define MADV_POPULATE_WRITE 23
#endif

enum { HOLD, ARMED, FULL, FAILED, CLOSED };
enum { PWRITE, MAP };
enum { IMPOSSIBLE = -1 };
enum { START, STOP, POSITION, CHECK, WORDS }; /* of a row; CHECK is ~position, see fastidm/core/segments.py */
static const char *const state_names[] = {"HOLD", "ARMED", "FULL", "FAILED", "CLOSED"};

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *weakrefs;
    PyObject *dirty;   /* the owner's list of sinks that have gathered something */
    Py_buffer table;   /* table.obj is NULL when closed */
    Py_buffer memory;  /* stands for the file, [0, size); memory.obj is NULL when there is a file */
    Py_ssize_t row;    /* -1: not armed */
    int fd, state, mode, error, busy;
    int advice;        /* to madvise, makes pages ready; 0: nothing that this kernel knows; -1: not asked yet */
    int crossing;      /* the row is full, what comes now is kept */
    long long size, page, cursor, received, written, mismatch, cost_ns, cost_bytes;
    char *beyond;      /* the `kept` bytes before the cursor, of `seam` that are wanted; or NULL */
    Py_ssize_t seam, kept;
    long long position, limit; /* of the row, as `bounds` has last seen them */
    char *buffer;      /* holds the file's [cursor - fill, cursor); NULL unless fill > 0 */
    Py_ssize_t fill, gather;
    char *map;         /* the file's [map_start, map_stop), or NULL; writable without a fault below `ready` */
    long long map_start, map_stop, ready;
    Py_ssize_t window, stride;
    void *hint;        /* where the last window was: the next one goes there */
    PyObject *hand_down; /* the owner's way to have the disk begin with something; NULL when there is none */
    long long handed;  /* what PWRITE wrote below it was handed down; -1: it begins anew */
} Sink;

static int fail(Sink *s, int error)
{
    s->state = FAILED;
    s->error = error;
    return -1;
}

static Py_ssize_t least(Py_ssize_t a, long long b)
{
    return b < (long long)a ? (Py_ssize_t)b : a;
}

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void set_mode(Sink *s, int mode)
{
    s->mode = s->size < 0 || s->memory.obj ? PWRITE : mode; /* what has no known end cannot be mapped */
    s->cost_ns = s->cost_bytes = 0;
}

/* A mode takes effect late: what the earlier one still does is not charged to the later one. */
static void charge(Sink *s, int mode, long long ns, Py_ssize_t bytes)
{
    if (mode != s->mode) return;
    s->cost_ns += ns;
    s->cost_bytes += bytes;
}

/* Free gather buffers; the last one given back is the one still in the CPU's cache, and goes first. */
static struct {
    char *memory;
    Py_ssize_t size;
} spare[SPARES];
static int spares = 0;

static char *take_buffer(Py_ssize_t size)
{
    while (spares > 0) {
        spares--;
        if (spare[spares].size == size) return spare[spares].memory;
        PyMem_RawFree(spare[spares].memory);
    }
    return PyMem_RawMalloc((size_t)size);
}

static void give_back_buffer(Sink *s)
{
    if (s->buffer && spares < SPARES) {
        spare[spares].memory = s->buffer;
        spare[spares++].size = s->gather;
    } else {
        PyMem_RawFree(s->buffer);
    }
    s->buffer = NULL;
    s->fill = 0;
}

/* What may be done in the row, now that this sink is done with everything below `at`. */
static int bounds(Sink *s, long long at)
{
    const int64_t *row = (int64_t *)s->table.buf + WORDS * s->row;
    long long start = __atomic_load_n(row + START, __ATOMIC_ACQUIRE);
    s->limit = __atomic_load_n(row + STOP, __ATOMIC_ACQUIRE);
    s->position = __atomic_load_n(row + POSITION, __ATOMIC_ACQUIRE);
    if (s->size >= 0 && s->size < s->limit) s->limit = s->size;
    /* EINVAL: the row is broken, or was given to somebody else. */
    return start < 0 || s->position < start || s->position < at ? fail(s, EINVAL) : 0;
}

/* The row's bytes below `to` are in the file. */
static void advance(Sink *s, long long to)
{
    int64_t *row = (int64_t *)s->table.buf + WORDS * s->row;
    long long stop = __atomic_load_n(row + STOP, __ATOMIC_ACQUIRE);
    if (to > stop) to = stop; /* lowered while the GIL was away */
    if (to <= __atomic_load_n(row + POSITION, __ATOMIC_ACQUIRE)) return;
    __atomic_store_n(row + POSITION, to, __ATOMIC_RELEASE);
    __atomic_store_n(row + CHECK, ~to, __ATOMIC_RELEASE);
}

static int compare(Sink *s, const char *data, Py_ssize_t length, long long at)
{
    char held[COMPARE_STEP];
    while (length > 0) {
        Py_ssize_t n = least(length, COMPARE_STEP), got = n, same = 0;
        if (s->memory.obj) {
            memcpy(held, (char *)s->memory.buf + at, (size_t)n);
        } else {
            Py_BEGIN_ALLOW_THREADS
            do got = pread(s->fd, held, (size_t)n, at);
            while (got < 0 && errno == EINTR);
            Py_END_ALLOW_THREADS
        }
        if (got <= 0) return fail(s, got < 0 ? errno : EIO); /* 0: the file is shorter than the row claims */
        if (memcmp(held, data, (size_t)got) != 0) {
            while (held[same] == data[same]) same++;
            s->mismatch = at + same;
            return fail(s, 0);
        }
        data += got;
        length -= got;
        at += got;
    }
    return 0;
}

static Py_ssize_t write_file(Sink *s, const char *data, Py_ssize_t length, long long at)
{
    Py_ssize_t n;
    long long ns;
    if (s->memory.obj) {
        memcpy((char *)s->memory.buf + at, data, (size_t)length);
        return length;
    }
    Py_BEGIN_ALLOW_THREADS
    ns = now_ns();
    do n = pwrite(s->fd, data, (size_t)length, at);
    while (n < 0 && errno == EINTR);
    ns = now_ns() - ns;
    Py_END_ALLOW_THREADS
    if (n <= 0) return fail(s, n < 0 ? errno : EIO);
    charge(s, PWRITE, ns, n);
    return n;
}

/* Where this thread goes on after a fault in [from, to), the window that it is writing to. */
typedef struct {
    sigjmp_buf jump;
    const char *from, *to;
} Landing;

#ifdef __GLIBC__
/* There by the time the thread begins. glibc allocates the usual kind at first touch, which may be in the handler. */
__attribute__((tls_model("initial-exec")))
#endif
static _Thread_local Landing *volatile landing;
static struct sigaction beneath; /* what was there when the guard was installed; the embedding program's */

static int is_handler(const struct sigaction *a)
{
    return (a->sa_flags & SA_SIGINFO) || (a->sa_handler != SIG_DFL && a->sa_handler != SIG_IGN);
}

/* Does with a signal that is not ours what would have become of it without us. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    int has_handler = is_handler(&beneath);
    sigset_t mask = beneath.sa_mask;
    if (!has_handler && beneath.sa_handler == SIG_IGN && info->si_code <= 0) return; /* sent; no fault can be ignored */
    if (!has_handler || (beneath.sa_flags & (int)SA_RESETHAND)) signal(number, SIG_DFL);
    if (!has_handler) {
        if (info->si_code <= 0) raise(number);
        return; /* a fault comes again on return, and then ends the process as it would have */
    }
    if (!(beneath.sa_flags & SA_NODEFER)) sigaddset(&mask, number);
    pthread_sigmask(SIG_BLOCK, &mask, NULL); /* until the return from the signal */
    if (beneath.sa_flags & SA_SIGINFO) beneath.sa_sigaction(number, info, context);
    else beneath.sa_handler(number);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    Landing *l = landing;
    const char *at = info->si_addr;
    if (l && info->si_code > 0 && at >= l->from && at < l->to) siglongjmp(l->jump, 1); /* si_code: a fault, not kill() */
    pass_on(number, info, context);
}

/* Whether a fault in this thread comes to `on_sigbus`, and to it first. It is installed when it is first needed, so a program
 * that never maps keeps its handlers. One that came over it stays there: it may lead to ours, and ours must not lead back.
 * Asked once for each window (m: 0.4 us; before each block it would cost 7 % of what the map costs at its best). */
static int guarded(void)
{
    static int installed = 0;
    struct sigaction found, ours;
    sigset_t blocked;
    if (pthread_sigmask(SIG_BLOCK, NULL, &blocked) != 0 || sigaction(SIGBUS, NULL, &found) < 0) return 0;
    if (sigismember(&blocked, SIGBUS)) return 0; /* a fault would end the process, whatever the handler */
    if ((found.sa_flags & SA_SIGINFO) && found.sa_sigaction == on_sigbus) return 1;
    if (installed && is_handler(&found)) return 0;
    beneath = found;
    memset(&ours, 0, sizeof(ours));
    ours.sa_sigaction = on_sigbus;
    /* NODEFER and no mask, because a landing does not return from the signal, which would restore them. */
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (found.sa_flags & SA_RESTART);
    return installed = sigaction(SIGBUS, &ours, NULL) == 0;
}

/* The advice that makes pages of `fd` writable that are in the page cache. tmpfs alone need not know when a page is
 * first written to: there a page that is read is mapped for writing too, and its neighbours with it. */
static int advice_for(int fd)
{
#ifdef __linux__
    struct statfs status;
    return fstatfs(fd, &status) == 0 && status.f_type == 0x01021994 ? MADV_POPULATE_READ : MADV_POPULATE_WRITE;
#else
    (void)fd;
    return 0;
#endif
}

static void unmap(Sink *s)
{
    if (s->map) munmap(s->map, (size_t)(s->map_stop - s->map_start));
    s->map = NULL;
}

/* A free address at a multiple of `length`, or NULL. Only a hint: another thread may take it. */
static void *free_place(Py_ssize_t length)
{
    void *found = mmap(NULL, 2 * (size_t)length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uintptr_t last = (uintptr_t)found + (uintptr_t)length - 1;
    if (found == MAP_FAILED) return NULL;
    munmap(found, 2 * (size_t)length);
    return (void *)(last - last % (uintptr_t)length);
}

/* Maps the window that holds `at`, if the file can be mapped and a fault in it would be caught. */
static void map_window(Sink *s, long long at)
{
    long long ns = now_ns(), start = at - at % s->window;
    Py_ssize_t length = least(s->window, s->size - start);
    void *map = MAP_FAILED;
    if (s->advice < 0) s->advice = advice_for(s->fd);
    if (!s->hint) s->hint = free_place(s->window);
    if (guarded()) map = mmap(s->hint, (size_t)length, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, start);
    s->map = map == MAP_FAILED ? NULL : map;
    if (s->map != s->hint) s->hint = NULL; /* somebody was faster */
    s->map_start = s->ready = start;
    s->map_stop = start + length;
    charge(s, MAP, now_ns() - ns, 0);
}

/* Why the map has no page below `to`: the disk is full, or somebody has cut the file. */
static int no_page(const Sink *s, long long to)
{
    struct stat status;
    return fstat(s->fd, &status) == 0 && status.st_size >= to ? ENOSPC : EIO;
}

/* Writes zeros where the row's bytes of [from, to) will be. The pages that a long write brings into the cache come in one
 * folio, which one fault maps whole. Left to the fault, they come one by one, or are cleared megabytes ahead and have left
 * the CPU's cache when they are used (m: 1 GiB 0.23 s, else 0.36 and, where the host backs fresh memory late, 2). 0 or an
 * errno. */
static int blank(const Sink *s, long long from, long long to)
{
    static const char zeros[POPULATE_STEP];
    int error = no_page(s, to) == EIO ? EIO : 0; /* a file that was cut is not to grow again */
    while (from < to && !error) {
        ssize_t n = pwrite(s->fd, zeros, (size_t)(to - from), from);
        if (n > 0) from += n;
        else if (n == 0 || errno != EINTR) error = n < 0 ? errno : EIO;
    }
    return error;
}

/* Makes the row's bytes in [at, to) of the window writable without a fault; `at` is its position, so nothing is there to
 * be lost. 0; or a final errno; or -1: this map is no good. */
static int populate(Sink *s, long long at, long long to)
{
    if (s->ready < at - at % s->page) s->ready = at - at % s->page; /* what lies between is not ours to write */
    while (s->ready < to) {
        long long ns, stop = (s->ready / POPULATE_STEP + 1) * POPULATE_STEP, start = s->ready - s->ready % s->page;
        char *from = s->map + (start - s->map_start);
        int error, fault = 0;
        if (stop > s->limit) stop = s->limit;
        if (stop > s->map_stop) stop = s->map_stop;
        Py_BEGIN_ALLOW_THREADS
        ns = now_ns();
        error = blank(s, s->ready < at ? at : s->ready, stop);
        if (error) fault = error;
        else if (s->advice) {
            do error = madvise(from, (size_t)(stop - start), s->advice) < 0 ? errno : 0;
            while (error == EINTR || error == EAGAIN);
            if (error == EFAULT) fault = no_page(s, stop);
        }
        ns = now_ns() - ns;
        Py_END_ALLOW_THREADS
        charge(s, MAP, ns, 0);
        if (fault) return fault;
        if (error && error != EINVAL) return -1;
        if (error) s->advice = 0;
        s->ready = stop;
    }
    return 0;
}

/* The only access to mapped memory of the part file. A page that is gone, or that the disk has no room for, is an error and no
 * SIGBUS. 0 or an errno. */
static int copy_to_map(Sink *s, const char *data, Py_ssize_t length, long long at)
{
    Landing here;
    int error;
    here.from = s->map;
    here.to = s->map + (s->map_stop - s->map_start);
    if (sigsetjmp(here.jump, 0) == 0) {
        landing = &here;
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        memcpy(s->map + (at - s->map_start), data, (size_t)length);
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
        landing = NULL;
        return 0;
    }
    landing = NULL;
    Py_BEGIN_ALLOW_THREADS
    error = no_page(s, at + length);
    Py_END_ALLOW_THREADS
    return error;
}

/* The number of bytes written; 0: not by map, and the mode is PWRITE by now. */
static Py_ssize_t write_map(Sink *s, const char *data, Py_ssize_t length, long long at)
{
    long long ns;
    int error = -1;
    if (at < s->map_start || at >= s->map_stop) unmap(s);
    if (!s->map && s->mode == MAP) map_window(s, at);
    length = least(length, s->map_stop - at);
    if (s->map) error = populate(s, at, at + length);
    if (error < 0) {
        unmap(s);
        if (s->mode == MAP) set_mode(s, PWRITE);
        return 0;
    }
    ns = now_ns();
    if (!error) error = copy_to_map(s, data, length, at);
    if (error) return fail(s, error);
    if (at + length == s->map_stop) unmap(s);
    charge(s, MAP, now_ns() - ns, length);
    return length;
}

/* Has the disk begin with what PWRITE wrote, each `stride` bytes; [from, to) was written just now. */
static int hand_down(Sink *s, long long from, long long to)
{
    if (s->handed < 0) s->handed = from;
    to -= to % s->gather; /* a page that is not full would be written twice */
    if (to - s->handed < s->stride) return 0;
    PyObject *answer = PyObject_CallFunction(s->hand_down, "LL", s->handed, to);
    long error = answer ? PyLong_AsLong(answer) : -1;
    Py_XDECREF(answer);
    s->handed = to;
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(s->hand_down);
        return fail(s, EIO);
    }
    if (error < 0) Py_CLEAR(s->hand_down);
    return error > 0 ? fail(s, (int)error) : 0;
}

/* Afterwards the file holds `data` at [at, at + length), as far as that lies below the limit. */
static int place(Sink *s, const char *data, Py_ssize_t length, long long at)
{
    while (length > 0) {
        if (bounds(s, at) < 0) return -1;
        if (at >= s->limit) return 0;
        Py_ssize_t n = least(length, s->limit - at), done = 0;
        if (at < s->position) {
            n = least(n, s->position - at);
            if (compare(s, data, n, at) < 0) return -1;
        } else {
            /* Gathered bytes never go by map: a mode that was set meanwhile waits until the buffer is empty. */
            if (s->fill == 0 && (s->map || s->mode == MAP)) done = write_map(s, data, n, at);
            n = done != 0 ? done : write_file(s, data, n, at);
            if (n < 0) return -1;
            advance(s, at + n);
            s->written += n;
            if (done) s->handed = -1;
            else if (s->hand_down && hand_down(s, at, at + n) < 0) return -1;
        }
        data += n;
        at += n;
        length -= n;
    }
    return 0;
}

static int drain(Sink *s)
{
    int result = place(s, s->buffer, s->fill, s->cursor - s->fill);
    give_back_buffer(s);
    return result;
}

/* Gathers `length` bytes, the last before `cursor`; they do not go beyond the next multiple of `gather`. */
static int stash(Sink *s, const char *data, Py_ssize_t length)
{
    long long ns = now_ns();
    if (s->fill == 0) {
        Py_ssize_t last = s->dirty ? PyList_GET_SIZE(s->dirty) - 1 : -1;
        int listed = !s->dirty || (last >= 0 && PyList_GET_ITEM(s->dirty, last) == (PyObject *)s);
        if (!listed && PyList_Append(s->dirty, (PyObject *)s) < 0) PyErr_Clear();
        else s->buffer = take_buffer(s->gather);
        if (!s->buffer) return fail(s, ENOMEM);
    }
    memcpy(s->buffer + s->fill, data, (size_t)length);
    s->fill += length;
    charge(s, PWRITE, now_ns() - ns, 0);
    return s->cursor % s->gather == 0 ? drain(s) : 0;
}

/* Beyond the row's stop nothing is written: `seam` bytes are kept for the owner to compare. The number taken, or -1. */
static Py_ssize_t keep(Sink *s, const char *data, Py_ssize_t length)
{
    Py_ssize_t n = least(length, s->seam - s->kept);
    if (!s->beyond) s->beyond = PyMem_RawMalloc((size_t)s->seam);
    if (!s->beyond) return fail(s, ENOMEM);
    memcpy(s->beyond + s->kept, data, (size_t)n);
    s->kept += n;
    s->cursor += n;
    s->received += n;
    if (s->kept == s->seam) s->state = FULL;
    return n;
}

/* Nothing is left to be written. */
static void fill_up(Sink *s)
{
    if (s->seam > 0) s->crossing = 1;
    else s->state = FULL;
}

/* The number of bytes taken while ARMED; less than `length` ends the transfer. */
static Py_ssize_t take(Sink *s, const char *data, Py_ssize_t length)
{
    Py_ssize_t taken = 0;
    for (int result = 0; result == 0;) {
        if (s->crossing) {
            Py_ssize_t n = taken < length ? keep(s, data + taken, length - taken) : 0;
            return n < 0 ? 0 : taken + n;
        }
        if (bounds(s, s->cursor - s->fill) < 0) break;
        if (s->cursor >= s->limit) {
            if (drain(s) < 0) break;
            unmap(s);
            fill_up(s);
            if (s->state == FULL) return taken;
            continue;
        }
        if (taken == length) return taken;
        Py_ssize_t n = least(length - taken, s->limit - s->cursor);
        int overlap = s->fill == 0 && s->cursor < s->position;
        Py_ssize_t room = s->gather - (Py_ssize_t)(s->cursor % s->gather);
        int straight = s->fill == 0 && (s->map || s->mode == MAP || s->memory.obj || (room == s->gather && n >= room));
        if (overlap) n = least(n, s->position - s->cursor);
        else if (!straight) n = least(n, room);
        s->cursor += n;
        s->received += n;
        result = overlap || straight ? place(s, data + taken, n, s->cursor - n) : stash(s, data + taken, n);
        taken += n;
    }
    give_back_buffer(s);
    unmap(s);
    return 0;
}

/* ---- what Python sees ---- */

static int enter(Sink *s)
{
    if (s->busy) PyErr_SetString(PyExc_RuntimeError, "the sink is in use by another thread");
    return s->busy ? -1 : (s->busy = 1);
}

static PyObject *sink_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Sink *s = (Sink *)self;
    Py_buffer block;
    Py_ssize_t taken = 0;
    if (PyVectorcall_NARGS(nargsf) != 1 || (names && PyTuple_GET_SIZE(names) > 0)) {
        PyErr_SetString(PyExc_TypeError, "a sink takes exactly one block");
        return NULL;
    }
    if (s->state == HOLD) return PyLong_FromLong(PAUSE);
    if (PyObject_GetBuffer(args[0], &block, PyBUF_SIMPLE) < 0) return NULL;
    if (enter(s) < 0) {
        PyBuffer_Release(&block);
        return NULL;
    }
    if (s->state == ARMED && block.len > 0) taken = take(s, block.buf, block.len);
    s->busy = 0;
    PyBuffer_Release(&block);
    if (taken < block.len) return PyLong_FromSsize_t(taken);
    Py_RETURN_NONE;
}

static PyObject *sink_flush(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Sink *s = (Sink *)self;
    if (s->fill > 0) {
        if (enter(s) < 0) return NULL;
        /* The stop may have come down to what was gathered. */
        if (drain(s) == 0 && bounds(s, 0) == 0 && s->cursor >= s->limit) fill_up(s);
        s->busy = 0;
    }
    return PyBool_FromLong(s->state != FAILED);
}

static PyObject *sink_arm(PyObject *self, PyObject *args)
{
    Sink *s = (Sink *)self;
    Py_ssize_t row, rows = s->table.len / (Py_ssize_t)(WORDS * sizeof(int64_t));
    Py_ssize_t seam = 0;
    long long cursor;
    if (!PyArg_ParseTuple(args, "nL|n:arm", &row, &cursor, &seam)) return NULL;
    if (s->state != HOLD) return PyErr_Format(PyExc_ValueError, "cannot arm a sink that is %s", state_names[s->state]);
    if (row < 0 || row >= rows) return PyErr_Format(PyExc_ValueError, "there is no row %zd", row);
    const int64_t *w = (int64_t *)s->table.buf + WORDS * row;
    if (w[START] < 0 || w[POSITION] < w[START] || w[STOP] < w[POSITION] || cursor < 0 || cursor > w[POSITION])
        return PyErr_Format(PyExc_ValueError, "row %zd, cursor %lld: out of order", row, cursor);
    if (seam < 0 || seam > LONGEST_SEAM) return PyErr_Format(PyExc_ValueError, "no seam has %zd bytes", seam);
    s->row = row;
    s->cursor = cursor;
    s->seam = seam;
    s->state = ARMED;
    Py_RETURN_NONE;
}

static void release(Sink *s)
{
    give_back_buffer(s);
    PyMem_RawFree(s->beyond);
    s->beyond = NULL;
    s->kept = 0;
    unmap(s);
    PyBuffer_Release(&s->table);
    PyBuffer_Release(&s->memory);
    Py_CLEAR(s->dirty);
    Py_CLEAR(s->hand_down);
}

static PyObject *sink_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Sink *s = (Sink *)self;
    if (enter(s) < 0) return NULL;
    s->state = CLOSED;
    release(s);
    s->busy = 0;
    Py_RETURN_NONE;
}

static PyObject *sink_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "table", "size", "dirty", "gather", "mode", "window", "memory", "hand_down", "stride", NULL};
    PyObject *table, *dirty, *memory = Py_None, *hand_down = Py_None;
    Py_ssize_t gather = GATHER, window = WINDOW, stride = STRIDE, row_size = WORDS * sizeof(int64_t);
    int fd, mode = PWRITE;
    long long size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iOLO!|$ninOOn:Sink", names, &fd, &table, &size, &PyList_Type, &dirty,
                                     &gather, &mode, &window, &memory, &hand_down, &stride))
        return NULL;
    if (size < -1 || mode < PWRITE || mode > MAP || gather < 1 || gather > LARGEST || window < 1 || window > LARGEST ||
        stride < 1) {
        PyErr_SetString(PyExc_ValueError, "size, gather, mode, window or stride is out of range");
        return NULL;
    }
    Sink *s = (Sink *)type->tp_alloc(type, 0);
    if (!s) return NULL;
    s->page = sysconf(_SC_PAGESIZE);
    s->window = (Py_ssize_t)((window + s->page - 1) / s->page * s->page);
    s->vectorcall = sink_call;
    s->dirty = Py_NewRef(dirty);
    s->hand_down = hand_down != Py_None && memory == Py_None ? Py_NewRef(hand_down) : NULL;
    s->handed = -1;
    s->stride = stride;
    s->fd = fd;
    s->advice = -1;
    s->size = size;
    s->gather = gather;
    s->row = -1;
    s->mismatch = -1;
    if (memory != Py_None && PyObject_GetBuffer(memory, &s->memory, PyBUF_WRITABLE) < 0) {
        Py_CLEAR(s);
        return NULL;
    }
    if (s->memory.obj && (size < 0 || s->memory.len < size)) {
        PyErr_SetString(PyExc_ValueError, "the memory is smaller than the file");
        Py_CLEAR(s);
        return NULL;
    }
    set_mode(s, mode);
    if (PyObject_GetBuffer(table, &s->table, PyBUF_WRITABLE) < 0) {
        Py_CLEAR(s);
    } else if (s->table.len % row_size || (uintptr_t)s->table.buf % sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "the table must be rows of four int64, aligned to 8 bytes");
        Py_CLEAR(s);
    }
    return (PyObject *)s;
}

static PyObject *sink_repr(PyObject *self)
{
    const Sink *s = (const Sink *)self;
    return PyUnicode_FromFormat("<Sink %s %s row=%zd cursor=%lld received=%lld written=%lld errno=%d mismatch=%lld>",
                                state_names[s->state], s->mode == MAP ? "MAP" : "PWRITE", s->row, s->cursor,
                                s->received, s->written, s->error, s->mismatch);
}

static PyObject *get_mode(PyObject *self, void *Py_UNUSED(ignored))
{
    return PyLong_FromLong(((Sink *)self)->mode);
}

static int put_mode(PyObject *self, PyObject *value, void *Py_UNUSED(ignored))
{
    long mode = value ? PyLong_AsLong(value) : -1;
    if (mode != PWRITE && mode != MAP) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "mode must be 0 (PWRITE) or 1 (MAP)");
        return -1;
    }
    set_mode((Sink *)self, (int)mode);
    return 0;
}

static int sink_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Sink *)self)->dirty);
    Py_VISIT(((Sink *)self)->hand_down);
    return 0;
}

static int sink_clear(PyObject *self)
{
    Py_CLEAR(((Sink *)self)->dirty);
    Py_CLEAR(((Sink *)self)->hand_down);
    return 0;
}

static void sink_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (((Sink *)self)->weakrefs) PyObject_ClearWeakRefs(self);
    release((Sink *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef sink_methods[] = {
    {"arm", sink_arm, METH_VARARGS, NULL},
    {"flush", sink_flush, METH_NOARGS, NULL},
    {"close", sink_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_beyond(PyObject *self, void *Py_UNUSED(ignored))
{
    Sink *s = (Sink *)self;
    return PyBytes_FromStringAndSize(s->beyond, s->kept);
}

static PyGetSetDef sink_getset[] = {
    {"mode", get_mode, put_mode, NULL, NULL},
    {"beyond", get_beyond, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define FIELD(name, type, field) {name, type, offsetof(Sink, field), READONLY, NULL}
static PyMemberDef sink_members[] = {
    FIELD("__vectorcalloffset__", T_PYSSIZET, vectorcall),
    FIELD("__weaklistoffset__", T_PYSSIZET, weakrefs),
    FIELD("row", T_PYSSIZET, row),
    FIELD("cursor", T_LONGLONG, cursor),
    FIELD("received", T_LONGLONG, received),
    FIELD("written", T_LONGLONG, written),
    FIELD("state", T_INT, state),
    FIELD("errno", T_INT, error),
    FIELD("mismatch", T_LONGLONG, mismatch),
    FIELD("cost_ns", T_LONGLONG, cost_ns),
    FIELD("cost_bytes", T_LONGLONG, cost_bytes),
    {NULL, 0, 0, 0, NULL},
};

/* ---- a small file in one go, see fastidm/storage/whole.py ---- */

static int write_all(int fd, const char *data, Py_ssize_t length)
{
    for (Py_ssize_t n, at = 0; at < length; at += n) {
        do n = pwrite(fd, data + at, (size_t)(length - at), at);
        while (n < 0 && errno == EINTR);
        if (n <= 0) return n < 0 ? errno : EIO;
    }
    return 0;
}

static int name_it(int fd, const char *path)
{
    char self[32];
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0) return 0;
    return errno == EEXIST ? EEXIST : IMPOSSIBLE;
}

/* 0, the errno of what went wrong, or IMPOSSIBLE. Without the GIL. */
static int put_whole(const char *folder, const char *path, const char *data, Py_ssize_t length, int sync)
{
    int error = IMPOSSIBLE;
#ifdef O_TMPFILE
    int fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0666);
    if (fd < 0) return IMPOSSIBLE;
    error = write_all(fd, data, length);
    if (!error && sync && fdatasync(fd) < 0) error = errno;
    if (!error) error = name_it(fd, path);
    close(fd);
#else
    (void)folder, (void)path, (void)data, (void)length, (void)sync;
#endif
    return error;
}

static PyObject *write_whole(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *folder, *path;
    Py_buffer data;
    int sync, error;
    if (!PyArg_ParseTuple(args, "yyy*p:write_whole", &folder, &path, &data, &sync)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = put_whole(folder, path, data.buf, data.len, sync);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromLong(error);
}

/* ---- many small files, each in one go; fastidm.storage.writers.PureWriter documents it ----
 *
 * The threads in `serve` never ask for the GIL while they work: a helper thread that comes back to the interpreter for every file
 * makes the loop wait for it, several times a file (measured: a quarter of the time of two thousand files).
 * `lock` guards everything but `fd` itself; nobody asks for the GIL while holding it. */

enum { WAITING, BEGUN, DONE };

typedef struct Job {
    struct Job *next;
    long long number;
    PyObject *folder, *path;
    Py_buffer data;
    int stage, error;
} Job;

typedef struct {
    PyObject_HEAD
    pthread_mutex_t lock;
    pthread_cond_t more;
    Job *jobs; /* as they came, in every stage */
    long long last;
    int fd, told, closed;
} Writer;

static void drop(Job *job)
{
    PyBuffer_Release(&job->data);
    Py_DECREF(job->folder);
    Py_DECREF(job->path);
    PyMem_Free(job);
}

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int fd;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Writer takes no named arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "i:Writer", &fd)) return NULL;
    Writer *w = (Writer *)type->tp_alloc(type, 0);
    if (!w) return NULL;
    w->fd = fd;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    return (PyObject *)w;
}

static void writer_dealloc(PyObject *self)
{
    Writer *w = (Writer *)self; /* a thread in `serve` holds a reference, so there is none */
    PyTypeObject *type = Py_TYPE(self);
    while (w->jobs) {
        Job *job = w->jobs;
        w->jobs = job->next;
        drop(job);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *writer_put(PyObject *self, PyObject *args)
{
    Writer *w = (Writer *)self;
    const char *folder, *path; /* parsed for the check that they hold no zero byte */
    Job *job = PyMem_Calloc(1, sizeof *job);
    if (!job) return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "SSy*:put", &job->folder, &job->path, &job->data)) goto wrong;
    if (PyBytes_AsStringAndSize(job->folder, (char **)&folder, NULL) < 0) goto wrong_data;
    if (PyBytes_AsStringAndSize(job->path, (char **)&path, NULL) < 0) goto wrong_data;
    Py_INCREF(job->folder);
    Py_INCREF(job->path);
    pthread_mutex_lock(&w->lock);
    job->number = ++w->last;
    Job **end = &w->jobs;
    while (*end) end = &(*end)->next;
    *end = job;
    pthread_mutex_unlock(&w->lock);
    return PyLong_FromLongLong(job->number);
wrong_data:
    PyBuffer_Release(&job->data);
wrong:
    PyMem_Free(job);
    return NULL;
}

static PyObject *writer_go(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    pthread_cond_signal(&((Writer *)self)->more);
    Py_RETURN_NONE;
}

static PyObject *writer_serve(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Writer *w = (Writer *)self;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&w->lock);
    while (!w->closed) {
        Job *job = w->jobs;
        while (job && job->stage != WAITING) job = job->next;
        if (!job) {
            pthread_cond_wait(&w->more, &w->lock);
            continue;
        }
        job->stage = BEGUN;
        pthread_mutex_unlock(&w->lock);
        int error = put_whole(PyBytes_AS_STRING(job->folder), PyBytes_AS_STRING(job->path), job->data.buf, job->data.len, 0);
        pthread_mutex_lock(&w->lock);
        job->error = error;
        job->stage = DONE;
        if (!w->told && !w->closed) w->told = write(w->fd, "", 1) == 1 || errno == EAGAIN; /* full: it wakes all the same */
    }
    pthread_mutex_unlock(&w->lock);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *writer_done(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Writer *w = (Writer *)self;
    Job *done = NULL, **end = &done;
    pthread_mutex_lock(&w->lock);
    w->told = 0;
    for (Job **at = &w->jobs; *at;) {
        Job *job = *at;
        if (job->stage == DONE) {
            *at = job->next;
            *end = job;
            end = &job->next;
            job->next = NULL;
        } else {
            at = &job->next;
        }
    }
    pthread_mutex_unlock(&w->lock);
    PyObject *result = PyList_New(0);
    while (done) {
        Job *job = done;
        done = job->next;
        PyObject *pair = result ? Py_BuildValue("(Li)", job->number, job->error) : NULL;
        if (!pair || PyList_Append(result, pair) < 0) Py_CLEAR(result);
        Py_XDECREF(pair);
        drop(job);
    }
    return result;
}

static PyObject *writer_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    Writer *w = (Writer *)self;
    pthread_mutex_lock(&w->lock);
    w->closed = 1;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    Py_RETURN_NONE;
}

static PyObject *get_waiting(PyObject *self, void *Py_UNUSED(ignored))
{
    Writer *w = (Writer *)self;
    long count = 0;
    pthread_mutex_lock(&w->lock);
    for (const Job *job = w->jobs; job; job = job->next) count += job->stage == WAITING;
    pthread_mutex_unlock(&w->lock);
    return PyLong_FromLong(count);
}

static PyMethodDef writer_methods[] = {
    {"put", writer_put, METH_VARARGS, NULL},
    {"go", writer_go, METH_NOARGS, NULL},
    {"serve", writer_serve, METH_NOARGS, NULL},
    {"done", writer_done, METH_NOARGS, NULL},
    {"close", writer_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef writer_getset[] = {
    {"waiting", get_waiting, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_doc, "The writer in C; fastidm.storage.writers.PureWriter documents it."},
    {Py_tp_new, (void *)writer_new},
    {Py_tp_methods, writer_methods},
    {Py_tp_getset, writer_getset},
    {Py_tp_dealloc, (void *)writer_dealloc},
    {0, NULL},
};

static PyType_Spec writer_spec = {
    .name = "fastidm._hotpath.Writer",
    .basicsize = sizeof(Writer),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = writer_slots,
};

static PyMethodDef functions[] = {
    {"write_whole", write_whole, METH_VARARGS, "See fastidm.storage.whole."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sink_slots[] = {
    {Py_tp_doc, "The sink in C; fastidm.storage.sink.PureSink documents it."},
    {Py_tp_new, (void *)sink_new},
    {Py_tp_call, (void *)PyVectorcall_Call},
    {Py_tp_repr, (void *)sink_repr},
    {Py_tp_methods, sink_methods},
    {Py_tp_members, sink_members},
    {Py_tp_getset, sink_getset},
    {Py_tp_traverse, (void *)sink_traverse},
    {Py_tp_clear, (void *)sink_clear},
    {Py_tp_dealloc, (void *)sink_dealloc},
    {0, NULL},
};

static PyType_Spec sink_spec = {
    .name = "fastidm._hotpath.Sink",
    .basicsize = sizeof(Sink),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = sink_slots,
};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &sink_spec, NULL);
    if (!type && !PyErr_Occurred()) PyErr_NoMemory(); /* of its allocations, one fails in silence in Python 3.11 */
    int result = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    for (int state = HOLD; result == 0 && state <= CLOSED; state++) {
        PyObject *number = PyLong_FromLong(state);
        result = number ? PyObject_SetAttrString(type, state_names[state], number) : -1;
        Py_XDECREF(number);
    }
    Py_XDECREF(type);
    type = result == 0 ? PyType_FromModuleAndSpec(module, &writer_spec, NULL) : NULL;
    if (!type && !PyErr_Occurred()) PyErr_NoMemory();
    if (!type || PyModule_AddType(module, (PyTypeObject *)type) < 0) result = -1;
    Py_XDECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void *)module_exec}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "fastidm._hotpath",
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hotpath(void)
{
    return PyModuleDef_Init(&module);
}
