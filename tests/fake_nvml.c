/* The driver's library on a host with three GPUs, the last of which has no memory of its own. */
#include <stdio.h>

#ifndef INIT
#define INIT 0
#endif

typedef struct { int index; } device;
typedef struct { unsigned long long total, free, used; } memory;

int opened = 0;
static device devices[] = {{0}, {1}, {2}};
static const char *uuids[] = {"GPU-aa11-0", "GPU-aa22-1", "GPU-bb33-2"};

int nvmlInit_v2(void) { opened += INIT == 0; return INIT; }
int nvmlShutdown(void) { opened--; return 0; }
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "?"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **handle) {
    *handle = &devices[index];
    return 0;
}

int nvmlDeviceGetUUID(device *handle, char *text, unsigned bytes) {
    snprintf(text, bytes, "%s", uuids[handle->index]);
    return 0;
}

int nvmlDeviceGetName(device *handle, char *text, unsigned bytes) {
    snprintf(text, bytes, "gpu %d", handle->index);
    return 0;
}

int nvmlDeviceGetMemoryInfo(device *handle, memory *found) {
    if (handle->index == 2) return 3;
    found->total = 16ULL << 30;
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(device *handle, int *major, int *minor) {
    *major = 7 + handle->index;
    *minor = 5;
    return 0;
}
