/* An allocator for tools/fuzz, put under torch with LD_PRELOAD: every tensor's memory has an inaccessible page on either side, is
 * filled with a byte of choice, and is never used again. A read or write out of bounds, or after freeing, is a signal; a write
 * into what alignment leaves over beside a tensor is found by fence_broken. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#define PAGE 4096UL
#define ARENA (1UL << 40)
#define LARGEST (1UL << 28)
#define BLOCKS 65536
extern void __libc_free(void *);
struct block { size_t pages, size, place; unsigned char *data; int fill; };
static char *base;
static size_t used, count, broken;
static struct block *live[BLOCKS];
static char lock;
static int on, fill, at_start;
void fence(int enable, int byte, int start) { on = enable; fill = byte; at_start = start; }
/* Fills the stack below the caller's frame with the byte, too: a local variable that nobody wrote shows it. */
__attribute__((noinline)) void fence_stack(void) {
  unsigned char below[1 << 16];
  memset(below, fill, sizeof below);
  __asm__ volatile("" : : "r"(below) : "memory");
}
static size_t spoilt(const struct block *b) {
  const unsigned char *first = (const unsigned char *)b + 2 * PAGE, *end = first + b->pages;
  for (const unsigned char *p = first; p < end; p++) {
    if (p == b->data) p += b->size;
    if (p < end && *p != b->fill) return 1;
  }
  return 0;
}
/* How many blocks were written beside their tensor since the last time, among the living and those freed meanwhile. */
size_t fence_broken(void) {
  while (__sync_lock_test_and_set(&lock, 1)) {}
  size_t found = broken;
  broken = 0;
  for (size_t i = 0; i < count; i++) found += spoilt(live[i]);
  __sync_lock_release(&lock);
  return found;
}
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
  memset(data, fill, pages);
  data += at_start ? 0 : pages - need;
  struct block *b = (struct block *)header;
  *b = (struct block){pages, size, BLOCKS, (unsigned char *)data, (unsigned char)fill};
  while (__sync_lock_test_and_set(&lock, 1)) {}
  if (count < BLOCKS) live[b->place = count++] = b;
  __sync_lock_release(&lock);
  *out = data;
  return 0;
}
void free(void *pointer) {
  char *p = pointer;
  if (!base || p < base || p >= base + ARENA) { __libc_free(pointer); return; }
  struct block *b = (struct block *)(((uintptr_t)p & ~(PAGE - 1)) - 2 * PAGE);
  while (__sync_lock_test_and_set(&lock, 1)) {}
  broken += spoilt(b);
  if (b->place < BLOCKS) {
    struct block *last = live[--count];
    live[b->place] = last;
    last->place = b->place;
  }
  __sync_lock_release(&lock);
  size_t pages = b->pages;
  mprotect(b, pages + 2 * PAGE, PROT_NONE);
  madvise(b, pages + 2 * PAGE, MADV_DONTNEED);
}
