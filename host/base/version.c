/* The only file that is compiled anew with every commit. */
#include "base/version.h"

#ifndef CUDISTILL_COMMIT
#define CUDISTILL_COMMIT ""
#endif

const char *version_commit(void)
{
    return CUDISTILL_COMMIT;
}
