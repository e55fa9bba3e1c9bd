/*
 * lat       What a kill(2) and an untraced system call cost, in ns.
 *
 * USAGE: lat CALLS RUNS
 *
 * RUNS times in turn, CALLS times kill(self, 0) and CALLS times getppid();
 * prints the lowest mean of each.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
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
	long calls = argc == 3 ? atol(argv[1]) : 0, i;
	int runs = argc == 3 ? atoi(argv[2]) : 0;
	double best_kill = 1e18, best_getppid = 1e18, begin, mean;
	pid_t self = getpid();

	if (calls < 1 || runs < 1) {
		fprintf(stderr, "usage: lat CALLS RUNS\n");
		return 2;
	}
	while (runs--) {
		begin = now();
		for (i = 0; i < calls; i++)
			kill(self, 0);
		mean = (now() - begin) / calls;
		if (mean < best_kill)
			best_kill = mean;

		begin = now();
		for (i = 0; i < calls; i++)
			syscall(SYS_getppid);
		mean = (now() - begin) / calls;
		if (mean < best_getppid)
			best_getppid = mean;
	}
	printf("%.0f %.0f\n", best_kill, best_getppid);
	return 0;
}
