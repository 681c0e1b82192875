/* A layer between a process and the file system, for LD_PRELOAD: it writes down every durable change below one folder,
 * in the order in which the changes happened, and fails or dies at the k-th of them.
 *
 * DISK_ROOT   the folder; what lies elsewhere passes through
 * DISK_TRACE  the file that the events are appended to (see disk.py for the format)
 * DISK_FAIL   "AT ERRNO ONCE MASK": the AT-th change (from 1) that MASK names fails with ERRNO; ONCE=0: and all after it,
 *             for as long as the file DISK_BROKEN exists, or until disk_heal()
 * DISK_DIE    the process kills itself after that many changes; "-N": N changes after the first that failed
 *
 * One lock is held over each call and its event, so the trace has the true order. Not written down: files that end in
 * "-shm" (SQLite's index of the WAL is mapped memory, never synced, and rebuilt after a crash), and reads.
 * What is written to a file called "marks" is an event too: so a process says what it promised, and exactly when.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, TRUNCATE, SYNC, UNLINK, RENAME, MKDIR, MARK, SYNC_FAILED };
enum { CREATED = 1 };
enum { CAN_WRITE = 1, CAN_SYNC = 2, CAN_NAME = 4 }; /* what MASK may name: writes, syncs, and changes of names */
enum { FDS = 4096, NOTHING = 0, FOLDER_OR_FILE = 1, MARKS = 2 };

struct event {
  uint8_t kind, flag;
  uint16_t name; /* bytes of the name, then of the second name (RENAME) after a NUL */
  uint32_t handle;
  int64_t offset;
  uint32_t size; /* bytes of data */
} __attribute__((packed));

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1;
static long changes, failures, fail_at, die_at;
static int fail_errno, fail_once, fail_mask = CAN_WRITE | CAN_SYNC | CAN_NAME;
static char broken[PATH_MAX];
static uint32_t handles[FDS];
static uint8_t kinds[FDS];
static uint32_t last_handle;

#define REAL(type, name, ...) \
  static type (*real_##name)(__VA_ARGS__)
REAL(int, open, const char *, int, ...);
REAL(int, openat, int, const char *, int, ...);
REAL(int, close, int);
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
REAL(int, ftruncate, int, off_t);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, unlink, const char *);
REAL(int, rename, const char *, const char *);
REAL(int, mkdir, const char *, mode_t);
REAL(int, fallocate, int, int, off_t, off_t);
REAL(int, posix_fallocate, int, off_t, off_t);
REAL(ssize_t, writev, int, const struct iovec *, int);

static void begin(const char *folder, const char *trace_path) {
  if (trace >= 0) real_close(trace);
  snprintf(root, sizeof root, "%s", folder ? folder : "");
  root_length = strlen(root);
  trace = trace_path ? real_open(trace_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  memset(kinds, NOTHING, sizeof kinds);
}

__attribute__((constructor)) static void load(void) {
#define FIND(name) real_##name = dlsym(RTLD_NEXT, #name)
  FIND(open); FIND(openat); FIND(close); FIND(write); FIND(pwrite); FIND(ftruncate); FIND(fsync); FIND(fdatasync);
  FIND(unlink); FIND(rename); FIND(mkdir); FIND(fallocate); FIND(posix_fallocate); FIND(writev);
  last_handle = ((uint32_t)getpid() & 0xffff) << 16;
  if (getenv("DISK_ROOT")) begin(getenv("DISK_ROOT"), getenv("DISK_TRACE"));
  if (getenv("DISK_BROKEN")) snprintf(broken, sizeof broken, "%s", getenv("DISK_BROKEN"));
  if (getenv("DISK_FAIL")) sscanf(getenv("DISK_FAIL"), "%ld %d %d %d", &fail_at, &fail_errno, &fail_once, &fail_mask);
  if (getenv("DISK_DIE")) die_at = atol(getenv("DISK_DIE"));
}

/* -- for a process that steers itself (ctypes) ------------------------------------------------------------------- */

void disk_record(const char *folder, const char *trace_path) {
  pthread_mutex_lock(&lock);
  begin(folder, trace_path);
  changes = 0;
  pthread_mutex_unlock(&lock);
}

void disk_fail(long at, int code, int once, int mask) {
  fail_at = at > 0 ? changes + at : 0;
  fail_errno = code, fail_once = once, fail_mask = mask;
}

void disk_heal(void) { fail_at = 0; }

long disk_changes(void) { return changes; }

long disk_failures(void) { return failures; }

/* -- what every call does ---------------------------------------------------------------------------------------- */

static void say(int kind, int flag, uint32_t handle, int64_t offset, const char *name, const char *second, const void *data,
                size_t size) {
  if (trace < 0) return;
  size_t first = name ? strlen(name) : 0, more = second ? strlen(second) + 1 : 0;
  struct event event = {kind, flag, first + more, handle, offset, size};
  struct iovec parts[5] = {{&event, sizeof event}, {(void *)name, first}, {"", more ? 1 : 0},
                           {(void *)second, more ? more - 1 : 0}, {(void *)data, size}};
  if (real_writev(trace, parts, 5) != (ssize_t)(sizeof event + first + more + size)) abort();
}

/* The name below the root, or none. "" is the root itself. */
static const char *below(const char *path) {
  if (!root_length || !path || strncmp(path, root, root_length)) return NULL;
  if (path[root_length] == '/') return path + root_length + 1;
  return path[root_length] ? NULL : path + root_length;
}

static int is_shm(const char *name) {
  size_t length = strlen(name);
  return length >= 4 && !strcmp(name + length - 4, "-shm");
}

/* Count a change; nonzero where it is to fail. */
static int change(int what) {
  changes++;
  if (!fail_at || !(what & fail_mask)) {
    if (fail_at == changes) fail_at++; /* not one of those: the next that is */
    return 0;
  }
  if (changes < fail_at || (fail_once && changes > fail_at)) return 0;
  if (changes > fail_at && *broken && access(broken, F_OK)) return 0;
  if (die_at < 0) die_at = changes - die_at - 1;
  failures++;
  errno = fail_errno;
  return 1;
}

static void done(void) {
  if (die_at > 0 && changes >= die_at) kill(getpid(), SIGKILL), pause();
}

static int opened(int fd, const char *path, int flags, int existed) {
  const char *name = below(path);
  if (fd < 0 || fd >= FDS) return fd;
  kinds[fd] = NOTHING;
  if (!name || is_shm(name)) return fd;
  if (!strcmp(name, "marks")) {
    kinds[fd] = MARKS;
    return fd;
  }
  kinds[fd] = FOLDER_OR_FILE;
  handles[fd] = ++last_handle;
  say(OPEN, existed ? 0 : CREATED, handles[fd], 0, name, NULL, NULL, 0);
  if (flags & O_TRUNC && existed) say(TRUNCATE, 0, handles[fd], 0, NULL, NULL, NULL, 0);
  return fd;
}

static int open_it(int at, const char *path, int flags, mode_t mode) {
  pthread_mutex_lock(&lock);
  const char *name = below(path);
  int watched = name && !is_shm(name) && strcmp(name, "marks");
  int existed = !(flags & O_CREAT) || !access(path, F_OK);
  int changing = watched && (!existed || flags & O_TRUNC);
  int fd = changing && change(CAN_NAME) ? -1 : real_openat(at, path, flags, mode);
  int code = errno;
  opened(fd, path, flags, existed);
  if (changing) done();
  pthread_mutex_unlock(&lock);
  errno = code;
  return fd;
}

#define MODE_OF(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_it(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_it(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_it(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_it(at, path, flags | O_LARGEFILE, mode); }
int __open_2(const char *path, int flags) { return open_it(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_it(AT_FDCWD, path, flags | O_LARGEFILE, 0); }
int creat(const char *path, mode_t mode) { return open_it(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_it(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
  if (fd >= 0 && fd < FDS) kinds[fd] = NOTHING;
  return real_close(fd);
}

static int kind_of(int fd) { return fd >= 0 && fd < FDS ? kinds[fd] : NOTHING; }

static ssize_t write_it(int fd, const void *data, size_t size, int64_t offset, int positioned) {
  int kind = kind_of(fd);
  if (kind == NOTHING) return positioned ? real_pwrite(fd, data, size, offset) : real_write(fd, data, size);
  pthread_mutex_lock(&lock);
  ssize_t result;
  if (kind == MARKS) {
    say(MARK, 0, 0, 0, NULL, NULL, data, size);
    result = size;
  } else {
    if (!positioned) {
      struct stat found;
      int appends = fcntl(fd, F_GETFL) & O_APPEND;
      offset = appends && !fstat(fd, &found) ? found.st_size : lseek(fd, 0, SEEK_CUR);
    }
    int fails = change(CAN_WRITE);
    if (fails && fail_errno == ENOSPC && size >= 1024 && changes == fail_at) {
      fails = 0, size = size / 2 & ~511ul; /* the last room there was */
    }
    result = fails ? -1 : positioned ? real_pwrite(fd, data, size, offset) : real_write(fd, data, size);
    if (result > 0) say(WRITE, 0, handles[fd], offset, NULL, NULL, data, result);
    int code = errno;
    done();
    errno = code;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

ssize_t write(int fd, const void *data, size_t size) { return write_it(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return write_it(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return write_it(fd, data, size, offset, 1); }

static int truncate_it(int fd, off_t size) {
  if (kind_of(fd) != FOLDER_OR_FILE) return real_ftruncate(fd, size);
  pthread_mutex_lock(&lock);
  int result = change(CAN_WRITE) ? -1 : real_ftruncate(fd, size), code = errno;
  if (!result) say(TRUNCATE, 0, handles[fd], size, NULL, NULL, NULL, 0);
  done();
  pthread_mutex_unlock(&lock);
  errno = code;
  return result;
}

int ftruncate(int fd, off_t size) { return truncate_it(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_it(fd, size); }

static int sync_it(int fd, int (*real)(int)) {
  if (kind_of(fd) != FOLDER_OR_FILE) return real(fd);
  pthread_mutex_lock(&lock);
  int fails = change(CAN_SYNC);
  int result = fails ? -1 : real(fd), code = errno;
  if (!result || fails) say(fails ? SYNC_FAILED : SYNC, 0, handles[fd], 0, NULL, NULL, NULL, 0);
  done();
  pthread_mutex_unlock(&lock);
  errno = code;
  return result;
}

int fsync(int fd) { return sync_it(fd, real_fsync); }
int fdatasync(int fd) { return sync_it(fd, real_fdatasync); }

/* Files are grown by writing zeros here: a disk that refuses to allocate is a legal one. */
int fallocate(int fd, int mode, off_t offset, off_t size) {
  return kind_of(fd) == NOTHING ? real_fallocate(fd, mode, offset, size) : (errno = EOPNOTSUPP, -1);
}
int posix_fallocate(int fd, off_t offset, off_t size) {
  return kind_of(fd) == NOTHING ? real_posix_fallocate(fd, offset, size) : EOPNOTSUPP;
}

int unlink(const char *path) {
  const char *name = below(path);
  if (!name || is_shm(name)) return real_unlink(path);
  pthread_mutex_lock(&lock);
  int result = change(CAN_NAME) ? -1 : real_unlink(path), code = errno;
  if (!result) say(UNLINK, 0, 0, 0, name, NULL, NULL, 0);
  done();
  pthread_mutex_unlock(&lock);
  errno = code;
  return result;
}

int rename(const char *from, const char *to) {
  const char *old = below(from), *new = below(to);
  if (!old || !new) return real_rename(from, to);
  pthread_mutex_lock(&lock);
  int result = change(CAN_NAME) ? -1 : real_rename(from, to), code = errno;
  if (!result) say(RENAME, 0, 0, 0, old, new, NULL, 0);
  done();
  pthread_mutex_unlock(&lock);
  errno = code;
  return result;
}

int mkdir(const char *path, mode_t mode) {
  const char *name = below(path);
  if (!name) return real_mkdir(path, mode);
  pthread_mutex_lock(&lock);
  int result = change(CAN_NAME) ? -1 : real_mkdir(path, mode), code = errno;
  if (!result) say(MKDIR, 0, 0, 0, name, NULL, NULL, 0);
  done();
  pthread_mutex_unlock(&lock);
  errno = code;
  return result;
}
