/*
 * lat       What a system call and an untraced one cost, in ns.
 *
 * USAGE: lat kill|madvise CALLS RUNS
 *
 * RUNS times in turn, CALLS times kill(self, 0), or madvise(DONTNEED) of a page
 * that is not in use, and CALLS times getppid(); prints the lowest mean of each.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	long calls = argc == 4 ? atol(argv[2]) : 0, i;
	int runs = argc == 4 ? atoi(argv[3]) : 0;
	double best_call = 1e18, best_getppid = 1e18, begin, mean;
	int is_kill = argc == 4 && !strcmp(argv[1], "kill");
	pid_t self = getpid();
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (calls < 1 || runs < 1 ||
	    (!is_kill && strcmp(argv[1], "madvise"))) {
		fprintf(stderr, "usage: lat kill|madvise CALLS RUNS\n");
		return 2;
	}
	while (runs--) {
		begin = now();
		if (is_kill)
			for (i = 0; i < calls; i++)
				kill(self, 0);
		else
			for (i = 0; i < calls; i++)
				madvise(page, 4096, MADV_DONTNEED);
		mean = (now() - begin) / calls;
		if (mean < best_call)
			best_call = mean;

		begin = now();
		for (i = 0; i < calls; i++)
			syscall(SYS_getppid);
		mean = (now() - begin) / calls;
		if (mean < best_getppid)
			best_getppid = mean;
	}
	printf("%.0f %.0f\n", best_call, best_getppid);
	return 0;
}
