/* SIGTERM, SIGUSR1, SIGUSR2, SIGINT: the first asks for "checkpoint at the next step boundary and leave" (exit code 75, or
 * 130 for SIGINT), the second of any kind ends the process at once. Within 0.25 s it counts as an echo of the first:
 * timeout(1) and job managers send a signal to the process and to its group. SIGPIPE and SIGXFSZ are ignored, so that a closed pipe
 * and a file-size limit are errors of write. */
#ifndef CUDISTILL_TRAIN_SIGNALS_H
#define CUDISTILL_TRAIN_SIGNALS_H

void signals_install(void);
int signals_pending(void); /* 0, or the first signal received */
int signals_exit_code(int signal);

#endif
