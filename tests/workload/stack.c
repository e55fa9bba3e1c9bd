/* Call madvise() as often as the argument says, from functions that are known
 * by name. Then wait for the end of stdin: a tracer looks the names up. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) int known_function(char *page)
{
	/* Not a tail call, so that it has a frame. */
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
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int count = argc == 2 ? atoi(argv[1]) : 0;

	return outer(page, count) - count + read(0, page, 1);
}
