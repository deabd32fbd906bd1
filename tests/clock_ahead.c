/* Preloaded, it has a process see the time of day SECONDS_AHEAD seconds late or early; other clocks stay as they are.
   libfaketime would do, but Python's time.sleep, which waits by the monotonic clock, fails under it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long ahead(void) { const char *said = getenv("SECONDS_AHEAD"); return said ? atol(said) : 0; }

int clock_gettime(clockid_t which, struct timespec *found) {
    static int (*own)(clockid_t, struct timespec *);
    if (!own) own = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = own(which, found);
    if (!status && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) found->tv_sec += ahead();
    return status;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone) {
    struct timespec at;
    (void)zone;
    int status = clock_gettime(CLOCK_REALTIME, &at);
    found->tv_sec = at.tv_sec, found->tv_usec = at.tv_nsec / 1000;
    return status;
}

time_t time(time_t *found) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (found) *found = at.tv_sec;
    return at.tv_sec;
}
