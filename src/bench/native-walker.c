/*
 * The native speed reference of the benchmark: full 2-D page walks in C, as fast as the plain loop goes.
 *
 *   gcc -O2 -o native-walker native-walker.c
 *   ./native-walker INPUT REPETITIONS
 *
 * For each guest-virtual address it walks the guest's 4-level tables, each of whose entries, like the final address,
 * is translated by a 4-level EPT: no TLB, no cached part of a walk. The rules are those of plain-walker.ts for
 *
 *   an Intel processor, CR0.PG = CR0.WP = 1, CR4.PAE = 1, EFER.LMA = EFER.NXE = 1, every other paging bit of CR4 0;
 *   1 GB pages in both dimensions, execute-only EPT entries supported, no mode-based execute control;
 *   user-mode data reads.
 *
 * INPUT, little-endian u64 each:
 *   magic 0x314b4c4157574552, CR3, EPTP, MAXPHYADDR, number of pages,
 *   per page: frame number (physical address >> 12, after the EPT), then 4096 bytes,
 *   number of addresses, then the guest-virtual addresses.
 * Frames that are not in the file read as zero.
 *
 * It prints one line of JSON: {"walks":N,"seconds":S,"checksum":"hex"}. The checksum is the sum modulo 2^64 of the
 * physical addresses found, where a walk that ends in any fault or exit adds 1. Only the walks are timed. Accessed
 * and dirty bits stay set from one repetition to the next.
 *
 * Exit status: 0 done, 2 usage, 3 unreadable input.
 */
#define _POSIX_C_SOURCE 199309L

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "little-endian hosts only"
#endif

#define MAGIC UINT64_C(0x314b4c4157574552)
#define PAGE_BYTES 4096
#define PAGE_ENTRIES 512

/* Bits `low` to `high` of an entry, in place. */
#define BITS(high, low) ((~UINT64_C(0) >> (63 - (high))) & (~UINT64_C(0) << (low)))
#define BIT(n) (UINT64_C(1) << (n))

/* Ordinary entries: SDM vol. 3A 4.5. */
#define PTE_PRESENT BIT(0)
#define PTE_USER BIT(2)
#define PTE_ACCESSED BIT(5)
#define PTE_PAGE_SIZE BIT(7)

/* EPT entries: SDM vol. 3C 28.3.2. */
#define EPT_READ BIT(0)
#define EPT_WRITE BIT(1)
#define EPT_EXECUTE BIT(2)
#define EPT_PAGE_SIZE BIT(7)
#define EPT_ACCESSED BIT(8)
#define EPT_DIRTY BIT(9)
#define EPTP_ACCESSED_DIRTY BIT(6)

#define ADDRESS_BITS BITS(51, 12)

/* --------------------------------------------------------------------------------------------------------- memory */

/* A two-level directory: row frame >> 10, column frame & 1023. */
#define ROW_BITS 10
#define ROW_PAGES (UINT64_C(1) << ROW_BITS)

static uint64_t ***directory;
static uint64_t directory_rows;

/* The entry at a physical address; NULL where there is no memory. */
static inline uint64_t *entry_at(uint64_t address) {
  uint64_t frame = address >> 12;
  uint64_t row = frame >> ROW_BITS;
  if (row >= directory_rows) return NULL;
  uint64_t **pages = directory[row];
  if (pages == NULL) return NULL;
  uint64_t *page = pages[frame & (ROW_PAGES - 1)];
  if (page == NULL) return NULL;
  return &page[(address >> 3) & (PAGE_ENTRIES - 1)];
}

/* ----------------------------------------------------------------------------------------------------------- walk */

static uint64_t cr3;
static uint64_t eptp;

/* Indexed by level, 1 to 4: reserved bits of an ordinary entry that references a table, and of one that maps a page. */
static uint64_t reserved_table[5];
static uint64_t reserved_page[5];

/* The same of EPT entries. */
static uint64_t ept_reserved_table[5];
static uint64_t ept_reserved_page[5];

static void prepare_reserved(uint64_t maxphyaddr) {
  uint64_t high = maxphyaddr < 52 ? BITS(51, maxphyaddr) : 0;
  for (int level = 1; level <= 4; level++) {
    reserved_table[level] = reserved_page[level] = high;
    /* SDM tables 28-1 to 28-7: bits 6:3 of entries that reference a table. */
    ept_reserved_table[level] = high | BITS(6, 3);
    ept_reserved_page[level] = high;
  }
  reserved_table[4] |= PTE_PAGE_SIZE;
  ept_reserved_table[4] |= EPT_PAGE_SIZE;
  reserved_page[3] |= BITS(29, 13);
  reserved_page[2] |= BITS(20, 13);
  ept_reserved_page[3] |= BITS(29, 12);
  ept_reserved_page[2] |= BITS(20, 12);
}

/* SDM 28.3.3.1, of an entry that is present. */
static inline bool ept_misconfigured(uint64_t entry, int level, bool leaf) {
  if ((entry & (EPT_READ | EPT_WRITE)) == EPT_WRITE) return true;
  if (entry & (leaf ? ept_reserved_page : ept_reserved_table)[level]) return true;
  if (!leaf) return false;
  uint64_t memory_type = (entry >> 3) & 7;
  return memory_type == 2 || memory_type == 3 || memory_type == 7;
}

/* SDM 28.3.2 to 28.3.5: translates `gpa` for an access that needs all of `needed`. False: a violation or misconfig. */
static inline bool translate_ept(uint64_t gpa, uint64_t needed, uint64_t *address) {
  uint64_t *used[4];
  uint64_t rights = EPT_READ | EPT_WRITE | EPT_EXECUTE;
  uint64_t table = eptp & ADDRESS_BITS;
  int count = 0;

  for (int level = 4;; level--) {
    int shift = 12 + 9 * (level - 1);
    uint64_t *where = entry_at(table | ((gpa >> shift) & 511) << 3);
    if (where == NULL) return false;
    uint64_t entry = *where;
    if ((entry & (EPT_READ | EPT_WRITE | EPT_EXECUTE)) == 0) return false;
    bool leaf = level == 1 || (level < 4 && (entry & EPT_PAGE_SIZE) != 0);
    if (ept_misconfigured(entry, level, leaf)) return false;
    rights &= entry;
    used[count++] = where;
    if (!leaf) {
      table = entry & ADDRESS_BITS;
      continue;
    }

    if ((rights & needed) != needed) return false;
    if (eptp & EPTP_ACCESSED_DIRTY) {
      for (int i = 0; i < count; i++) {
        uint64_t set = EPT_ACCESSED;
        if (i == count - 1 && (needed & EPT_WRITE)) set |= EPT_DIRTY;
        if ((*used[i] & set) != set) *used[i] |= set;
      }
    }
    uint64_t offset = BIT(shift) - 1;
    *address = (entry & ADDRESS_BITS & ~offset) | (gpa & offset);
    return true;
  }
}

/* One user-mode data read. False: #GP, #PF, EPT violation or EPT misconfiguration. */
static bool walk(uint64_t gva, uint64_t *address) {
  /* Canonical: bits 63:47 all equal. */
  if ((uint64_t)((int64_t)(gva << 16) >> 16) != gva) return false;

  /* SDM 28.3.3.2: with EPT's A/D flags on, accesses to the guest's tables are treated as writes. */
  bool ept_accessed_dirty = (eptp & EPTP_ACCESSED_DIRTY) != 0;
  uint64_t table_access = ept_accessed_dirty ? EPT_READ | EPT_WRITE : EPT_READ;

  struct {
    uint64_t gpa;
    uint64_t *where;
    uint64_t value;
  } used[4];
  uint64_t rights = PTE_USER;
  uint64_t table = cr3 & ADDRESS_BITS;
  uint64_t gpa;
  int count = 0;

  for (int level = 4;; level--) {
    int shift = 12 + 9 * (level - 1);
    uint64_t entry_gpa = table | ((gva >> shift) & 511) << 3;
    uint64_t entry_address;
    if (!translate_ept(entry_gpa, table_access, &entry_address)) return false;
    uint64_t *where = entry_at(entry_address);
    if (where == NULL) return false;
    uint64_t entry = *where;
    if (!(entry & PTE_PRESENT)) return false;
    bool leaf = level == 1 || (level < 4 && (entry & PTE_PAGE_SIZE) != 0);
    if (entry & (leaf ? reserved_page : reserved_table)[level]) return false;
    rights &= entry;
    used[count].gpa = entry_gpa;
    used[count].where = where;
    used[count].value = entry;
    count++;
    if (!leaf) {
      table = entry & ADDRESS_BITS;
      continue;
    }
    uint64_t offset = BIT(shift) - 1;
    gpa = (entry & ADDRESS_BITS & ~offset) | (gva & offset);
    break;
  }

  /* SDM 4.6.1: user-mode accesses reach user-mode addresses only. */
  if (!(rights & PTE_USER)) return false;

  /* The guest's accessed bits: after every permission passed, before the final nested translation. Without EPT's A/D
     flags each entry to be written is first checked for write permission. */
  if (!ept_accessed_dirty) {
    for (int i = 0; i < count; i++) {
      uint64_t ignored;
      if (!(used[i].value & PTE_ACCESSED) && !translate_ept(used[i].gpa, EPT_READ | EPT_WRITE, &ignored)) return false;
    }
  }
  for (int i = 0; i < count; i++) {
    if (!(used[i].value & PTE_ACCESSED)) *used[i].where = used[i].value | PTE_ACCESSED;
  }

  return translate_ept(gpa, EPT_READ, address);
}

/* ---------------------------------------------------------------------------------------------------------- input */

static void unreadable(const char *path, const char *why) {
  fprintf(stderr, "native-walker: %s: %s\n", path, why);
  exit(3);
}

static void read_words(FILE *file, const char *path, uint64_t *words, size_t count) {
  if (fread(words, sizeof *words, count, file) != count) unreadable(path, "cut short");
}

static void *allocate(const char *path, uint64_t count, size_t size) {
  void *memory = count <= SIZE_MAX / size ? calloc(count > 0 ? count : 1, size) : NULL;
  if (memory == NULL) unreadable(path, "too large for this machine's memory");
  return memory;
}

/* Bytes from here to the end of the file. */
static uint64_t bytes_left(FILE *file, const char *path) {
  long here = ftell(file);
  if (here < 0 || fseek(file, 0, SEEK_END) != 0) unreadable(path, "not a regular file");
  long end = ftell(file);
  if (end < here || fseek(file, here, SEEK_SET) != 0) unreadable(path, "not a regular file");
  return (uint64_t)(end - here);
}

static void read_memory(FILE *file, const char *path, uint64_t pages) {
  if (pages > bytes_left(file, path) / (8 + PAGE_BYTES)) unreadable(path, "cut short");
  uint64_t *frames = allocate(path, pages, sizeof *frames);
  uint64_t *contents = allocate(path, pages, PAGE_BYTES);
  for (uint64_t i = 0; i < pages; i++) {
    read_words(file, path, &frames[i], 1);
    read_words(file, path, &contents[i * PAGE_ENTRIES], PAGE_ENTRIES);
    if (frames[i] >> 40) unreadable(path, "a frame number needs more than 40 bits");
    if ((frames[i] >> ROW_BITS) >= directory_rows) directory_rows = (frames[i] >> ROW_BITS) + 1;
  }
  directory = allocate(path, directory_rows, sizeof *directory);
  for (uint64_t i = 0; i < pages; i++) {
    uint64_t ***row = &directory[frames[i] >> ROW_BITS];
    if (*row == NULL) *row = allocate(path, ROW_PAGES, sizeof **row);
    (*row)[frames[i] & (ROW_PAGES - 1)] = &contents[i * PAGE_ENTRIES];
  }
  free(frames);
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
  char *end = NULL;
  uint64_t repetitions = argc == 3 ? strtoull(argv[2], &end, 10) : 0;
  if (argc != 3 || *argv[2] == '\0' || *end != '\0') {
    fprintf(stderr, "usage: native-walker INPUT REPETITIONS\n");
    return 2;
  }
  const char *path = argv[1];
  FILE *file = fopen(path, "rb");
  if (file == NULL) unreadable(path, "cannot be opened");

  uint64_t header[5];
  read_words(file, path, header, 5);
  if (header[0] != MAGIC) unreadable(path, "not an input of this program: wrong magic");
  cr3 = header[1];
  eptp = header[2];
  if (((eptp >> 3) & 7) != 3) unreadable(path, "EPTP does not ask for four levels");
  if (header[3] < 32 || header[3] > 52) unreadable(path, "MAXPHYADDR is not between 32 and 52");
  prepare_reserved(header[3]);
  read_memory(file, path, header[4]);

  uint64_t count;
  read_words(file, path, &count, 1);
  if (count > bytes_left(file, path) / sizeof count) unreadable(path, "cut short");
  uint64_t *addresses = allocate(path, count, sizeof *addresses);
  read_words(file, path, addresses, count);
  fclose(file);

  uint64_t checksum = 0;
  double start = seconds_now();
  for (uint64_t repetition = 0; repetition < repetitions; repetition++) {
    for (uint64_t i = 0; i < count; i++) {
      uint64_t address;
      checksum += walk(addresses[i], &address) ? address : 1;
    }
  }
  double seconds = seconds_now() - start;

  uint64_t walks = count * repetitions;
  printf("{\"walks\":%" PRIu64 ",\"seconds\":%.6f,\"checksum\":\"%" PRIx64 "\"}\n", walks, seconds, checksum);
  return 0;
}
