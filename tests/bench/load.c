/*
 * load    Make a system call for tracers to see, and print what it costs.
 *
 * USAGE: load kill|signal|madvise|fault SECONDS RATE
 *
 * After a byte on stdin, calls kill(self, 0), kill(self, SIGUSR1), which it
 * ignores, madvise(DONTNEED) of an unused page, or touches a page that it gave
 * back so, RATE times a second, or as fast as it can if RATE is 0. Prints the
 * number of calls (or pages) and the median ns a call, and waits until stdin
 * ends.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GROUP 20	/* calls between two readings of the clock */
#define MAX_NS 1000000	/* a call that takes longer counts as this long */

static long groups[MAX_NS + 1];		/* by ns a call */
static char page[4096] __attribute__((aligned(4096)));
static char pages[200 * GROUP][4096] __attribute__((aligned(4096)));

static double now(void)			/* seconds */
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	int is_madvise = argc > 1 && !strcmp(argv[1], "madvise");
	int sig = argc > 1 && !strcmp(argv[1], "signal") ? SIGUSR1 : 0;
	int is_fault = argc > 1 && !strcmp(argv[1], "fault");
	int self = getpid(), next = 0;
	double seconds = argc > 3 ? atof(argv[2]) : 0;
	double rate = argc > 3 ? atof(argv[3]) : 0, begin, then;
	long calls = 0, below = 0, ns, i;

	signal(SIGUSR1, SIG_IGN);
	madvise(pages, sizeof(pages), MADV_NOHUGEPAGE);
	if (getchar() == EOF)
		return 1;
	for (begin = then = now(); then < begin + seconds; then = now()) {
		if (rate && calls + GROUP > rate * (then - begin)) {
			usleep(1000);
			continue;
		}
		if (is_fault && next % (200 * GROUP) == 0) {
			madvise(pages, sizeof(pages), MADV_DONTNEED);
			then = now();
			next = 0;
		}
		for (i = 0; i < GROUP; i++)
			if (is_fault)
				pages[next++][0] = 1;
			else if (is_madvise)
				madvise(page, 4096, MADV_DONTNEED);
			else
				kill(self, sig);
		ns = (now() - then) * 1e9 / GROUP + 0.5;
		groups[ns < MAX_NS ? ns : MAX_NS]++;
		calls += GROUP;
	}
	for (ns = 0; ns < MAX_NS && below <= calls / GROUP / 2; ns++)
		below += groups[ns];
	printf("%ld %ld\n", calls, ns - 1);
	fflush(stdout);
	getchar();
	return 0;
}
