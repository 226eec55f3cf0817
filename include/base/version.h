/* What program this is. */
#ifndef CUDISTILL_BASE_VERSION_H
#define CUDISTILL_BASE_VERSION_H

#define PROGRAM_VERSION "0.1.0"

/* `git describe` of the source at build time, "" where it was not known. */
const char *version_commit(void);

#endif
