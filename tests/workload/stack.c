/* Call madvise() as often as the argument says, from functions that are known
 * by name. Then wait for the end of stdin: a tracer looks the names up. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

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

int main(int argc, char **argv)
{
	int failed = outer(atoi(argv[argc - 1]));

	getchar();
	return failed;
}
