/* The one program of the test images. `burn PERCENT [SECONDS]` keeps one processor busy for PERCENT of the time, until
 * SIGTERM or for SECONDS. `burn 0` only waits, and is what holds a pod's namespaces. As process 1 of a container it
 * gets no signal that it does not handle, and children of others become its own. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

enum { SECOND_NS = 1000 * 1000 * 1000 };

static volatile sig_atomic_t ended;

static void end(int signal) { (void)signal, ended = 1; }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) {} }

static long long now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * (long long)SECOND_NS + time.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	long long period = atoi(argv[1]) ? SECOND_NS / 50 : SECOND_NS, busy = period / 100 * atoi(argv[1]);
	long long start = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID);
	long long seconds = argc > 2 ? atoi(argv[2]) : 0;

	signal(SIGTERM, end);
	signal(SIGINT, end);
	signal(SIGCHLD, reap);
	for (long long next = start; !ended && (!seconds || next < start + seconds * SECOND_NS);) {
		/* By its own CPU clock, so that a machine with other work only makes it later, not lighter. */
		used += busy;
		while (!ended && now(CLOCK_PROCESS_CPUTIME_ID) < used)
			for (volatile int turn = 0; turn < 20000; turn++) {}
		next += period;
		if (next < now(CLOCK_MONOTONIC))
			next = now(CLOCK_MONOTONIC);
		struct timespec until = { next / SECOND_NS, next % SECOND_NS };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
	return 0;
}
