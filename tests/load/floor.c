/* The least that a machine takes for what cfn does: the same system calls and nothing else. Prints nanoseconds.

   floor send FOLDER COUNT BYTES   create tmp/N, write, close, rename to inbox/N: COUNT times, one number
   floor take FOLDER COUNT BYTES   rename inbox/N to claimed/N, open, read, close, unlink: COUNT times, one number
   floor ping FOLDER COUNT         a byte through one FIFO, a byte back through another: COUNT numbers, one a round trip

   Names are as long as those of the bus; folders are open descriptors, as they are in cfn. Any failure ends it with 1. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int need(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int folder(const char *base, const char *part)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", base, part);
    return need(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), path);
}

static void name_of(char *name, size_t size, long number)
{
    snprintf(name, size, "%016ld~n~bench-a~1.0123456789.%ld~1.json", number, number);
}

static void send_files(const char *base, long count, long bytes)
{
    int tmp = folder(base, "tmp"), inbox = folder(base, "inbox");
    char name[256], *data = malloc(bytes + 1);
    memset(data, 'x', bytes);
    long long began = now_ns();
    for (long number = 0; number < count; number++) {
        name_of(name, sizeof name, number);
        int fd = need(openat(tmp, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600), "create");
        if (write(fd, data, bytes) != bytes)
            need(-1, "write");
        close(fd);
        need(renameat(tmp, name, inbox, name), "publish");
    }
    printf("%lld\n", now_ns() - began);
}

static void take_files(const char *base, long count, long bytes)
{
    int inbox = folder(base, "inbox"), claimed = folder(base, "claimed");
    char name[256], mine[256], *data = malloc(bytes + 1);
    long long began = now_ns();
    for (long number = 0; number < count; number++) {
        name_of(name, sizeof name, number);
        snprintf(mine, sizeof mine, "%.200s~0123456789~0123456789012345.json", name);
        need(renameat(inbox, name, claimed, mine), "claim");
        int fd = need(openat(claimed, mine, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), "open");
        if (read(fd, data, bytes + 1) != bytes)
            need(-1, "read");
        close(fd);
        need(unlinkat(claimed, mine, 0), "ack");
    }
    printf("%lld\n", now_ns() - began);
}

static void ping(const char *base, long count)
{
    char there[4096], back[4096], byte = 'x';
    long long *times = malloc(count * sizeof *times);
    snprintf(there, sizeof there, "%s/there", base);
    snprintf(back, sizeof back, "%s/back", base);
    need(mkfifo(there, 0600), there);
    need(mkfifo(back, 0600), back);
    pid_t other = need(fork(), "fork");
    if (other == 0) { /* ends when the first process closes its end, however that comes about */
        int in = need(open(there, O_RDONLY), there), out = need(open(back, O_WRONLY), back);
        while (read(in, &byte, 1) == 1)
            if (write(out, &byte, 1) != 1)
                break;
        _exit(0);
    }
    int out = need(open(there, O_WRONLY), there), in = need(open(back, O_RDONLY), back);
    for (long number = 0; number < count; number++) {
        long long began = now_ns();
        if (write(out, &byte, 1) != 1 || read(in, &byte, 1) != 1)
            need(-1, "ping");
        times[number] = now_ns() - began;
    }
    close(out);
    waitpid(other, NULL, 0);
    unlink(there);
    unlink(back);
    for (long number = 0; number < count; number++)
        printf("%lld\n", times[number]);
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "send"))
        send_files(argv[2], atol(argv[3]), atol(argv[4]));
    else if (argc == 5 && !strcmp(argv[1], "take"))
        take_files(argv[2], atol(argv[3]), atol(argv[4]));
    else if (argc == 4 && !strcmp(argv[1], "ping"))
        ping(argv[2], atol(argv[3]));
    else {
        fprintf(stderr, "usage: floor send|take FOLDER COUNT BYTES | floor ping FOLDER COUNT\n");
        return 2;
    }
    return 0;
}
