/*
 * stack     Calls madvise() from a function that is known by name.
 *
 * USAGE: stack COUNT
 *
 * main() calls outer(), which calls known_function() COUNT times, which calls
 * the C library's madvise(). Then it stays for a second, so that a tracer can
 * look up the names of the functions.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) int known_function(char *page)
{
	/* Neither call is the function's last act, so that it has a frame. */
	return madvise(page, 4096, MADV_DONTNEED) + 1;
}

__attribute__((noinline)) int outer(char *page, int count)
{
	int results = 0;

	while (count--)
		results += known_function(page);
	return results;
}

int main(int argc, char **argv)
{
	int count = argc == 2 ? atoi(argv[1]) : 0;
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	count -= outer(page, count);
	sleep(1);
	return count != 0;
}
