/* The device that a command computes on, by the name the user gave. */
#ifndef CUDISTILL_TRAIN_DEVICE_H
#define CUDISTILL_TRAIN_DEVICE_H

#include "backend/backend.h"

/* As backend_open, and "auto": cuda where it opens, else cpu. Where the program has its CUDA part and it cannot be used, one
 * line of the log tells why cpu was taken. */
Err *device_open(const char *name, const BackendOptions *options, Backend **out);

#endif
