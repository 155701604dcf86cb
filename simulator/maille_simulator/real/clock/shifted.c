/* The wall clock of a program, off by MAILLE_CLOCK_OFFSET_MS; its steady clock and its sleeps are
 * left alone. Preloaded (LD_PRELOAD), for Linux. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long long offset_ms;

__attribute__((constructor)) static void read_offset(void)
{
    const char *text = getenv("MAILLE_CLOCK_OFFSET_MS");
    offset_ms = text ? atoll(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *found)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int status = real(clock, found);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long ns = found->tv_nsec + offset_ms % 1000 * 1000000;
        found->tv_sec += (time_t)(offset_ms / 1000) + (ns < 0 ? -1 : ns >= 1000000000);
        found->tv_nsec = (long)(ns < 0 ? ns + 1000000000 : ns % 1000000000);
    }
    return status;
}

int gettimeofday(struct timeval *restrict found, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *found)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) {
        *found = now.tv_sec;
    }
    return now.tv_sec;
}
