/* Calls that change files, for LD_PRELOAD: one of them, or one and all after it, fails with EIO as a failing disk's do.

   fail_at(calls, suffix, number, forever) counts the calls whose letter is in `calls` (s: fsync and fdatasync, w: write
   and pwrite, t: ftruncate) on files whose name ends in `suffix`, from 1, and lets the one of that number fail. Each
   counted call is told of in a line on the descriptor that follow(fd) was given, so that they stand among what the
   program itself says there. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char calls[8], suffix[256];
static int number, forever, follower = -1;
static atomic_int count;

void fail_at(const char *new_calls, const char *new_suffix, int new_number, int new_forever) {
    snprintf(calls, sizeof calls, "%s", new_calls);
    snprintf(suffix, sizeof suffix, "%s", new_suffix);
    number = new_number;
    forever = new_forever;
    atomic_store(&count, 0);
}

void follow(int fd) { follower = fd; }

static ssize_t (*real_write)(int, const void *, size_t);

static int fails(char call, int fd) {
    char link[64], path[4096], line[4352];
    if (!number || !strchr(calls, call)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < (ssize_t)strlen(suffix)) return 0;
    path[size] = 0;
    if (strcmp(path + size - strlen(suffix), suffix)) return 0;
    int now = atomic_fetch_add(&count, 1) + 1;
    int failed = forever ? now >= number : now == number;
    const char *name = strrchr(path, '/');
    int length = snprintf(line, sizeof line, "%c %s %s\n", call, name ? name + 1 : path, failed ? "failed" : "done");
    if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
    if (follower >= 0 && real_write(follower, line, length) < 0) _exit(99);
    if (failed) errno = EIO;
    return failed;
}

#define PASS(result, name, call, parameters, arguments)                      \
    result name parameters {                                                 \
        static result(*real) parameters;                                     \
        if (!real) real = dlsym(RTLD_NEXT, #name);                           \
        return fails(call, fd) ? (result)-1 : real arguments;                \
    }

PASS(int, fsync, 's', (int fd), (fd))
PASS(int, fdatasync, 's', (int fd), (fd))
PASS(ssize_t, write, 'w', (int fd, const void *data, size_t size), (fd, data, size))
PASS(ssize_t, pwrite, 'w', (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
PASS(ssize_t, pwrite64, 'w', (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
PASS(int, ftruncate, 't', (int fd, off_t size), (fd, size))
PASS(int, ftruncate64, 't', (int fd, off64_t size), (fd, size))
