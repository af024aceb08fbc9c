/* An allocator for tools/fuzz_ops.py, put under torch with LD_PRELOAD: every tensor's memory has an inaccessible page on either side,
 * is filled with a byte of choice, and is never used again. A read or write out of bounds, or after freeing, is a signal. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#define PAGE 4096UL
#define ARENA (1UL << 40)
#define LARGEST (1UL << 28)
extern void __libc_free(void *);
static char *base;
static size_t used;
static int on, fill, at_start;
void fence(int enable, int byte, int start) { on = enable; fill = byte; at_start = start; }
/* header page | guard page | data pages | guard page; never used again once freed */
int posix_memalign(void **out, size_t align, size_t size) {
  if (size > LARGEST) return ENOMEM;
  size_t need = (size + align - 1) / align * align, pages = (need + PAGE - 1) / PAGE * PAGE;
  if (!on) return (*out = aligned_alloc(align, need)) ? 0 : ENOMEM;
  if (!base) {
    char *arena = mmap(0, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) return ENOMEM;
    base = arena;
  }
  size_t at = __sync_fetch_and_add(&used, pages + 3 * PAGE);
  if (at + pages + 3 * PAGE > ARENA) return ENOMEM;
  char *header = base + at, *data = header + 2 * PAGE;
  if (mprotect(header, PAGE, PROT_READ | PROT_WRITE) || mprotect(data, pages, PROT_READ | PROT_WRITE)) return ENOMEM;
  *(size_t *)header = pages;
  memset(data, fill, pages);
  *out = at_start ? data : data + pages - need;
  return 0;
}
void free(void *pointer) {
  char *p = pointer;
  if (!base || p < base || p >= base + ARENA) { __libc_free(pointer); return; }
  char *header = (char *)((uintptr_t)p & ~(PAGE - 1)) - 2 * PAGE;
  size_t pages = *(size_t *)header;
  mprotect(header, pages + 2 * PAGE, PROT_NONE);
  madvise(header, pages + 2 * PAGE, MADV_DONTNEED);
}
