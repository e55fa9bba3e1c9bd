/*
 * load      Makes system calls for a tracer to see, and tells what they cost.
 *
 * USAGE: load kill|madvise SENDERS CALLS SECONDS cost|burst|differ|RATE
 *
 * Prints the PIDs of SENDERS processes. When stdin has a line, or ends, they
 * begin: each makes CALLS calls, or what it can in SECONDS; kill(self, 0), or
 * madvise(DONTNEED) of a page that is not in use. With cost, as fast as it can,
 * and as many getppid(2) in turn; with burst, the calls alone; with differ, the
 * same, but each to another process, which does not exist, or for another range;
 * with a number, so many a second, of all senders together. Then it prints: how
 * many calls were made; in how many seconds; ns for a call; ns for a getppid(2).
 * A time is the median over some PIECE calls each, by CLOCK_MONOTONIC; 0 where
 * there is none.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE 100	/* calls between two looks at the clock */
#define PIECES 50000	/* whose times are kept, of each sender; the last ones */
#define MAX_SENDERS 1024
#define MAX_PID (1 << 22)	/* PID_MAX_LIMIT: see pid_max in proc(5) */
#define PAGES 256
#define PAGE 4096

enum call { KILL, MADVISE, GETPPID };

/* What a sender tells its parent, in memory that they share. */
struct told {
	long calls, pieces, getppid_pieces;
	double begin, end;
	float ns[PIECES], getppid_ns[PIECES];
};

static double now(void)		/* ns */
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void *map(size_t size, int flags)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
			MAP_ANONYMOUS | flags, -1, 0);

	if (at == MAP_FAILED) {
		perror("load: mmap");
		exit(1);
	}
	return at;
}

/* first is that call's number, or 0 if all are to be alike. */
static void make_calls(enum call call, long calls, char *pages, pid_t self,
		       long first)
{
	if (call == KILL && first)
		while (calls--)
			kill(MAX_PID + first++, 0);
	else if (call == KILL)
		while (calls--)
			kill(self, 0);
	else if (call == MADVISE && first)
		for (; calls--; first++)
			madvise(pages + first % PAGES * PAGE,
				(1 + first / PAGES % PAGES) * PAGE,
				MADV_DONTNEED);
	else if (call == MADVISE)
		while (calls--)
			madvise(pages, PAGE, MADV_DONTNEED);
	else
		while (calls--)
			syscall(SYS_getppid);
}

static long least(long a, long b)
{
	return a < b ? a : b;
}

static void send(struct told *told, enum call call, long calls, double seconds,
		 int with_getppid, int differ, double rate)
{
	char *pages = map(2 * PAGES * PAGE, MAP_PRIVATE);
	struct timespec pause = { 0, 1000000 };
	pid_t self = getpid();
	double begin = now(), then = begin, done;
	long piece;

	told->begin = begin;
	while (told->calls < calls && then < begin + seconds * 1e9) {
		piece = least(PIECE, calls - told->calls);
		if (rate) {
			done = rate * (then - begin) / 1e9 - told->calls;
			piece = least(piece, (long)done);
			if (piece < 1) {
				nanosleep(&pause, NULL);
				then = now();
				continue;
			}
		}
		make_calls(call, piece, pages, self,
			   differ ? told->calls + 1 : 0);
		done = now();
		told->ns[told->pieces++ % PIECES] = (done - then) / piece;
		told->calls += piece;
		then = done;
		if (with_getppid) {
			make_calls(GETPPID, piece, pages, self, 0);
			done = now();
			told->getppid_ns[told->getppid_pieces++ % PIECES] =
				(done - then) / piece;
			then = done;
		}
	}
	told->end = then;
}

static int compare(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

static double median(float *values, long count)
{
	if (!count)
		return 0;
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

static void print(struct told *told, int senders)
{
	long calls = 0, count = 0, getppid_count = 0, n;
	double begin = told->begin, end = 0;
	float *ns, *getppid_ns;
	int i;

	ns = map(sizeof(told->ns) * senders, MAP_PRIVATE);
	getppid_ns = map(sizeof(told->ns) * senders, MAP_PRIVATE);
	for (i = 0; i < senders; i++) {
		calls += told[i].calls;
		begin = told[i].begin < begin ? told[i].begin : begin;
		end = told[i].end > end ? told[i].end : end;
		n = least(told[i].pieces, PIECES);
		memcpy(ns + count, told[i].ns, n * sizeof(*ns));
		count += n;
		n = least(told[i].getppid_pieces, PIECES);
		memcpy(getppid_ns + getppid_count, told[i].getppid_ns,
		       n * sizeof(*ns));
		getppid_count += n;
	}
	printf("%ld %.3f %.1f %.1f\n", calls, (end - begin) / 1e9,
	       median(ns, count), median(getppid_ns, getppid_count));
}

int main(int argc, char **argv)
{
	int senders = argc == 6 ? atoi(argv[2]) : 0, ready[2], i;
	long calls = argc == 6 ? atol(argv[3]) : 0;
	double seconds = argc == 6 ? atof(argv[4]) : 0, rate = 0;
	enum call call = argc == 6 && !strcmp(argv[1], "kill") ? KILL : MADVISE;
	int cost = argc == 6 && !strcmp(argv[5], "cost");
	int differ = argc == 6 && !strcmp(argv[5], "differ");
	struct told *told;
	char c;

	if (argc == 6 && !cost && !differ && strcmp(argv[5], "burst"))
		rate = atof(argv[5]);
	if (senders < 1 || senders > MAX_SENDERS || calls < 1 || seconds <= 0 ||
	    (call == MADVISE && strcmp(argv[1], "madvise")) ||
	    (!cost && !differ && !rate && strcmp(argv[5], "burst"))) {
		fprintf(stderr, "usage: load kill|madvise SENDERS CALLS "
			"SECONDS cost|burst|differ|RATE\n");
		return 2;
	}
	told = map(senders * sizeof(*told), MAP_SHARED);
	if (pipe(ready)) {
		perror("load: pipe");
		return 1;
	}
	for (i = 0; i < senders; i++) {
		pid_t child = fork();

		if (child < 0) {
			perror("load: fork");
			return 1;
		}
		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(ready[1]);
			if (read(ready[0], &c, 1) == 0)
				send(&told[i], call, calls, seconds, cost,
				     differ, rate / senders);
			_exit(0);
		}
		printf("%d ", child);
	}
	printf("\n");
	fflush(stdout);
	if (read(0, &c, 1) < 0)
		perror("load: stdin");
	close(ready[1]);
	while (wait(NULL) > 0)
		;
	print(told, senders);
	return 0;
}
