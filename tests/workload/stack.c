/*
 * stack    Call madvise(2) from functions that are known by name, or from
 *          processes that end at once.
 *
 * USAGE: stack same|pushed|distinct|processes COUNT
 *
 * At the end it waits for the end of stdin: a tracer looks names up.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) int known_function(void)
{
	return madvise(NULL, 0, MADV_DONTNEED);
}

__attribute__((noinline)) int outer(int count)
{
	int failed = 0;

	while (count--)
		failed |= known_function();
	return failed;
}

__attribute__((noinline)) void never_called(void)
{
	puts("called");
}

/* Keep a code address where a frameless function has its return address. */
__attribute__((noinline)) int pushed(void)
{
#if defined(__x86_64__)
	long result = SYS_madvise;

	asm volatile("push %4\n\tsyscall\n\tpop %%rcx"
		     : "+a"(result)
		     : "D"(0), "S"(0), "d"(MADV_DONTNEED), "r"(never_called)
		     : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x0 asm("x0") = 0, x1 asm("x1") = 0;
	register long x2 asm("x2") = MADV_DONTNEED, x8 asm("x8") = SYS_madvise;

	asm volatile("mov x30, %4\n\tsvc 0"
		     : "+r"(x0)
		     : "r"(x1), "r"(x2), "r"(x8), "r"(never_called)
		     : "x30", "memory");
	return x0;
#else
	return 0;
#endif
}

static volatile int calls;	/* after a call, so that it is no jump */

/* A stack for each number of 16 bits. */
__attribute__((noinline)) void even(int number, int depth);
__attribute__((noinline)) void odd(int number, int depth)
{
	if (!depth)
		known_function();
	else
		(number & 1 ? odd : even)(number >> 1, depth - 1);
	calls++;
}

void even(int number, int depth)
{
	if (!depth)
		known_function();
	else
		(number & 1 ? odd : even)(number >> 1, depth - 1);
	calls += 2;
}

int main(int argc, char **argv)
{
	int failed = 0, count = argc == 3 ? atoi(argv[2]) : 0, i;

	for (i = 0; i < count; i++) {
		if (!strcmp(argv[1], "same"))
			failed |= outer(1);
		else if (!strcmp(argv[1], "pushed"))
			failed |= pushed();
		else if (!strcmp(argv[1], "distinct"))
			odd(i, 16);
		else if (fork() == 0)
			_exit(known_function());
		else if (wait(NULL) > 0)
			usleep(50);	/* less than 10,000 a second */
	}
	getchar();
	return failed;
}
