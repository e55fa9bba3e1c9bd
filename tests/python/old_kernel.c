/*
 * Preloaded into a process, makes the kernel look older to it, by what is in the
 * environment. OLD_XDP: bpf(2) has no links and no tracing programs, and with the
 * value 5.6 netlink does not know XDP_FLAGS_REPLACE either. XDP_WAIT: a link comes
 * or is refused so many seconds later. OLD_BPF=none: there is no bpf(2);
 * OLD_BPF=unknown: it does not know any type of program, as if all were newer.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...)
{
    long (*real)(long, ...) = dlsym(RTLD_NEXT, "syscall");
    const char *old_bpf = getenv("OLD_BPF");
    long a[6];
    va_list list;
    int i;

    va_start(list, number);
    for (i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_bpf && old_bpf && !strcmp(old_bpf, "none")) {
        errno = ENOSYS;
        return -1;
    }
    if (number == SYS_bpf && (int)a[0] == BPF_PROG_LOAD &&
        (old_bpf || (getenv("OLD_XDP") &&
                     *(unsigned int *)a[1] == BPF_PROG_TYPE_TRACING))) {
        errno = EINVAL;
        return -1;
    }
    if (number == SYS_bpf && (int)a[0] == BPF_LINK_CREATE &&
        getenv("XDP_WAIT"))
        sleep(atoi(getenv("XDP_WAIT")));
    if (number == SYS_bpf && (int)a[0] == BPF_LINK_CREATE &&
        getenv("OLD_XDP")) {
        errno = EINVAL;
        return -1;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* A flag that no kernel knows, next to the one that old ones do not know. */
ssize_t send(int fd, const void *data, size_t size, int flags)
{
    ssize_t (*real)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
    /* nlmsghdr, ifinfomsg, IFLA_XDP, IFLA_XDP_FD, IFLA_XDP_FLAGS */
    const size_t place = 16 + 16 + 4 + 8 + 4;
    const struct nlmsghdr *message = data;
    const char *version = getenv("OLD_XDP");
    char copy[256];
    unsigned int xdp_flags;

    if (version && !strcmp(version, "5.6") && size >= place + 4 &&
        size <= sizeof(copy) && message->nlmsg_type == RTM_SETLINK) {
        memcpy(copy, data, size);
        memcpy(&xdp_flags, copy + place, 4);
        if (xdp_flags & XDP_FLAGS_REPLACE)
            xdp_flags |= 1U << 31;
        memcpy(copy + place, &xdp_flags, 4);
        data = copy;
    }
    return real(fd, data, size, flags);
}
