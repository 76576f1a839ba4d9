/*
 * pool-exec FILE: carries out device-mapper and block operations, one per line, inside the guest.
 *
 * A process per operation would cost more than the operation itself on an emulated processor, and a pool commits by
 * itself once a second while it is dirty: this keeps a whole group of writes well under that. Every line gives one
 * line of output:
 *
 *   NUMBER ok|ERRNO FLUSHES TEXT
 *
 * NUMBER counts lines from 0; FLUSHES is how many flushes the watched disk has completed meanwhile (two for each
 * commit of a pool whose metadata lies there). In parameters `@name` stands for the MAJOR:MINOR of a mapped device or of
 * /dev/name. Offsets and lengths are bytes, table lengths are sectors.
 *
 *   watch DISK                        create NAME SECTORS TYPE PARAMS...     load NAME SECTORS TYPE PARAMS...
 *   resume NAME                       suspend NAME [noflush]                 remove NAME
 *   message NAME WORDS...             status NAME [noflush]                  table NAME
 *   events NAME                       open NAME / close NAME                 put FILE TEXT...
 *   write NAME OFFSET LENGTH SEED     flush NAME                             discard NAME OFFSET LENGTH
 *   read NAME OFFSET LENGTH           sum NAME                               capture DISK LENGTH TO OFFSET
 *   sleep MILLISECONDS                async OPERATION...                     join
 *   clear
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK (1u << 20)
#define MAX_WORDS 64
#define MAX_OPEN 1024

static int control;
static unsigned char *buffer;
static char text[65536];
static char watched[64];
static struct { char name[128]; int fd; } opened[MAX_OPEN];
static int nr_opened;
static pid_t children[64];
static int nr_children;

/* ---- the device-mapper's ioctls ---- */

static char dm_buffer[128 * 1024] __attribute__((aligned(8)));

static struct dm_ioctl *dm_request(const char *name, unsigned flags)
{
	struct dm_ioctl *io = (void *)dm_buffer;
	memset(dm_buffer, 0, 4096);
	io->version[0] = DM_VERSION_MAJOR;
	io->data_size = sizeof(dm_buffer);
	io->data_start = sizeof(*io);
	io->flags = flags;
	if (strlen(name) < sizeof(io->name)) strcpy(io->name, name);
	return io;
}

static int dm_call(unsigned long command)
{
	return ioctl(control, command, dm_buffer) < 0 ? errno : 0;
}

static int dm_number(const char *name, unsigned *maj, unsigned *min)
{
	struct dm_ioctl *io = dm_request(name, 0);
	int error = dm_call(DM_DEV_STATUS);
	if (error) return error;
	*maj = major(io->dev);
	*min = minor(io->dev);
	return 0;
}

/* The words from `first` on, with @name replaced by device numbers. */
static void join_words(char **words, int first, int count, char *out, size_t size)
{
	size_t at = 0;
	*out = 0;
	for (int i = first; i < count; i++) {
		char number[192];
		const char *word = words[i];
		if (word[0] == '@') {
			unsigned maj, min;
			if (dm_number(word + 1, &maj, &min)) {
				char path[160];
				struct stat st;
				snprintf(path, sizeof(path), "/dev/%s", word + 1);
				if (stat(path, &st)) memset(&st, 0, sizeof(st));
				maj = major(st.st_rdev);
				min = minor(st.st_rdev);
			}
			snprintf(number, sizeof(number), "%u:%u", maj, min);
			word = number;
		}
		at += snprintf(out + at, size - at, "%s%s", i > first ? " " : "", word);
	}
}

static int dm_load(char **words, int count)
{
	char params[8192];
	join_words(words, 4, count, params, sizeof(params));
	struct dm_ioctl *io = dm_request(words[1], 0);
	struct dm_target_spec *spec = (void *)(dm_buffer + io->data_start);
	memset(spec, 0, sizeof(*spec));
	io->target_count = 1;
	spec->length = strtoull(words[2], 0, 0);
	snprintf(spec->target_type, sizeof(spec->target_type), "%s", words[3]);
	strcpy((char *)(spec + 1), params);
	return dm_call(DM_TABLE_LOAD);
}

static int dm_suspend(const char *name, unsigned flags)
{
	dm_request(name, flags);
	return dm_call(DM_DEV_SUSPEND);
}

static int dm_query(const char *name, unsigned flags)
{
	struct dm_ioctl *io = dm_request(name, flags);
	int error = dm_call(DM_TABLE_STATUS);
	if (error) return error;
	if (!io->target_count) return ENXIO;
	struct dm_target_spec *spec = (void *)(dm_buffer + io->data_start);
	snprintf(text, sizeof(text), "%llu %llu %s %s", (unsigned long long)spec->sector_start,
		 (unsigned long long)spec->length, spec->target_type, (char *)(spec + 1));
	return 0;
}

/* ---- open devices ---- */

static int device_path(const char *name, char *path, size_t size)
{
	unsigned maj, min;
	if (dm_number(name, &maj, &min)) snprintf(path, size, "/dev/%s", name);
	else snprintf(path, size, "/dev/dm-%u", min);
	return 0;
}

static int device(const char *name)
{
	for (int i = 0; i < nr_opened; i++) if (!strcmp(opened[i].name, name)) return opened[i].fd;
	char path[160];
	device_path(name, path, sizeof(path));
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0 && errno == EROFS) fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0) return -1;
	if (nr_opened == MAX_OPEN) { errno = EMFILE; return -1; }
	snprintf(opened[nr_opened].name, sizeof(opened[0].name), "%s", name);
	opened[nr_opened++].fd = fd;
	return fd;
}

static void forget(const char *name)
{
	for (int i = 0; i < nr_opened; i++)
		if (!strcmp(opened[i].name, name)) {
			close(opened[i].fd);
			opened[i] = opened[--nr_opened];
			return;
		}
}

/* ---- sha256 ---- */

static const uint32_t K[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
	0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
	0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
	0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
	0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
	0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2 };

struct sha { uint32_t state[8]; uint64_t length; unsigned char tail[64]; unsigned fill; };

#define ROR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

static void sha_block(struct sha *s, const unsigned char *p)
{
	uint32_t w[64], a = s->state[0], b = s->state[1], c = s->state[2], d = s->state[3], e = s->state[4], f = s->state[5],
		 g = s->state[6], h = s->state[7];
	for (int i = 0; i < 16; i++, p += 4) w[i] = (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (ROR(w[i - 15], 7) ^ ROR(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (ROR(w[i - 2], 17) ^ ROR(w[i - 2], 19) ^ w[i - 2] >> 10);
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = h + (ROR(e, 6) ^ ROR(e, 11) ^ ROR(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
		uint32_t t2 = (ROR(a, 2) ^ ROR(a, 13) ^ ROR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
		h = g; g = f; f = e; e = d + t1; d = c; c = b; b = a; a = t1 + t2;
	}
	s->state[0] += a; s->state[1] += b; s->state[2] += c; s->state[3] += d;
	s->state[4] += e; s->state[5] += f; s->state[6] += g; s->state[7] += h;
}

static void sha_start(struct sha *s)
{
	static const uint32_t first[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	memcpy(s->state, first, sizeof(first));
	s->length = s->fill = 0;
}

static void sha_add(struct sha *s, const unsigned char *p, size_t n)
{
	s->length += n;
	if (s->fill) {
		while (n && s->fill < 64) { s->tail[s->fill++] = *p++; n--; }
		if (s->fill < 64) return;
		sha_block(s, s->tail);
		s->fill = 0;
	}
	for (; n >= 64; p += 64, n -= 64) sha_block(s, p);
	memcpy(s->tail, p, n);
	s->fill = n;
}

static void sha_end(struct sha *s, char *hex)
{
	uint64_t bits = s->length * 8;
	unsigned char one = 0x80, zero = 0, size[8];
	sha_add(s, &one, 1);
	while (s->fill != 56) sha_add(s, &zero, 1);
	for (int i = 0; i < 8; i++) size[i] = bits >> (56 - 8 * i);
	sha_add(s, size, 8);
	for (int i = 0; i < 8; i++) sprintf(hex + 8 * i, "%08x", s->state[i]);
}

/* ---- block operations ---- */

static int all_zero(const unsigned char *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

/* Each sector repeats one u64: the seed below, the number of the sector above. */
static int op_write(const char *name, uint64_t offset, uint64_t length, uint32_t seed)
{
	int fd = device(name);
	if (fd < 0) return errno;
	while (length) {
		uint64_t n = length < CHUNK ? length : CHUNK;
		for (uint64_t i = 0; i < n; i += 512) {
			uint64_t word = (offset + i) / 512 << 32 | seed, *p = (uint64_t *)(buffer + i);
			for (int j = 0; j < 64; j++) p[j] = word;
		}
		ssize_t done = pwrite(fd, buffer, n, offset);
		if (done < 0) return errno;
		if ((uint64_t)done != n) return EIO;
		offset += n;
		length -= n;
	}
	return 0;
}

/* The pages that are not all zeros, each behind its offset: the same for a hole and for written zeros. */
static int op_sum(const char *name, uint64_t offset, uint64_t length)
{
	int fd = device(name);
	uint64_t size, end;
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size)) return errno;
	end = length && offset + length < size ? offset + length : size;
	struct sha sha;
	sha_start(&sha);
	for (uint64_t at = offset; at < end;) {
		uint64_t n = end - at < CHUNK ? end - at : CHUNK;
		ssize_t got = pread(fd, buffer, n, at);
		if (got < 0) return errno;
		if ((uint64_t)got != n) return EIO;
		for (uint64_t i = 0; i < n; i += 4096) {
			size_t page = n - i < 4096 ? n - i : 4096;
			if (all_zero(buffer + i, page)) continue;
			uint64_t where = at + i;
			sha_add(&sha, (unsigned char *)&where, 8);
			sha_add(&sha, buffer + i, page);
		}
		at += n;
	}
	sha_end(&sha, text);
	return 0;
}

static int op_capture(const char *from, uint64_t length, const char *to, uint64_t offset)
{
	int in = device(from), out = device(to);
	if (in < 0 || out < 0) return errno;
	for (uint64_t at = 0; at < length; at += CHUNK) {
		uint64_t n = length - at < CHUNK ? length - at : CHUNK;
		if (pread(in, buffer, n, at) != (ssize_t)n) return errno ? errno : EIO;
		for (uint64_t i = 0; i < n;) {
			uint64_t j = i;
			while (j < n && !all_zero(buffer + j, 4096)) j += 4096;
			if (j > i && pwrite(out, buffer + i, j - i, offset + at + i) != (ssize_t)(j - i)) return errno ? errno : EIO;
			i = j > i ? j : i + 4096;
		}
	}
	return 0;
}

static int op_put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0) return errno;
	int error = write(fd, value, strlen(value)) < 0 ? errno : 0;
	close(fd);
	return error;
}

static long flushes(void)
{
	char path[128], line[512];
	long value = 0;
	if (!*watched) return 0;
	snprintf(path, sizeof(path), "/sys/block/%s/stat", watched);
	FILE *file = fopen(path, "r");
	if (!file) return 0;
	if (fgets(line, sizeof(line), file)) {
		char *word = strtok(line, " ");
		for (int i = 0; word && i < 15; i++) word = strtok(0, " ");
		if (word) value = atol(word);
	}
	fclose(file);
	return value;
}

static int run(char **w, int n)
{
#define IS(word, least) (!strcmp(w[0], word) && n >= (least))
#define NUMBER(i) strtoull(w[i], 0, 0)
	int error;
	if (IS("write", 5)) return op_write(w[1], NUMBER(2), NUMBER(3), NUMBER(4));
	if (IS("flush", 2)) {
		int fd = device(w[1]);
		return fd < 0 || fdatasync(fd) ? errno : 0;
	}
	if (IS("discard", 4)) {
		uint64_t range[2] = { NUMBER(2), NUMBER(3) };
		int fd = device(w[1]);
		return fd < 0 || ioctl(fd, BLKDISCARD, range) ? errno : 0;
	}
	if (IS("message", 3)) {
		char words[4096];
		join_words(w, 2, n, words, sizeof(words));
		struct dm_ioctl *io = dm_request(w[1], 0);
		struct dm_target_msg *msg = (void *)(dm_buffer + io->data_start);
		msg->sector = 0;
		strcpy(msg->message, words);
		return dm_call(DM_TARGET_MSG);
	}
	if (IS("create", 4)) {
		dm_request(w[1], 0);
		error = dm_call(DM_DEV_CREATE);
		if (error) return error;
		error = dm_load(w, n);
		if (!error) error = dm_suspend(w[1], 0);
		if (error) {
			dm_request(w[1], 0);
			dm_call(DM_DEV_REMOVE);
		}
		return error;
	}
	if (IS("load", 4)) return dm_load(w, n);
	if (IS("resume", 2)) return dm_suspend(w[1], 0);
	if (IS("suspend", 2)) return dm_suspend(w[1], DM_SUSPEND_FLAG | (n > 2 ? DM_NOFLUSH_FLAG : 0));
	if (IS("remove", 2)) {
		forget(w[1]);
		dm_request(w[1], 0);
		return dm_call(DM_DEV_REMOVE);
	}
	if (IS("clear", 1)) {
		while (nr_opened) forget(opened[0].name);
		for (int pass = 0; pass < 4; pass++) {
			dm_request("", 0);
			dm_call(DM_REMOVE_ALL);
		}
		return 0;
	}
	if (IS("status", 2)) return dm_query(w[1], n > 2 ? DM_NOFLUSH_FLAG : 0);
	if (IS("table", 2)) return dm_query(w[1], DM_STATUS_TABLE_FLAG);
	if (IS("events", 2)) {
		struct dm_ioctl *io = dm_request(w[1], 0);
		error = dm_call(DM_DEV_STATUS);
		if (!error) sprintf(text, "%u", io->event_nr);
		return error;
	}
	if (IS("open", 2)) return device(w[1]) < 0 ? errno : 0;
	if (IS("close", 2)) { forget(w[1]); return 0; }
	if (IS("sum", 2)) return op_sum(w[1], 0, 0);
	if (IS("read", 4)) return op_sum(w[1], NUMBER(2), NUMBER(3));
	if (IS("capture", 5)) return op_capture(w[1], NUMBER(2), w[3], NUMBER(4));
	if (IS("watch", 2)) { snprintf(watched, sizeof(watched), "%s", w[1]); return 0; }
	if (IS("sleep", 2)) { usleep(NUMBER(1) * 1000); return 0; }
	if (IS("put", 3)) {
		char words[4096];
		join_words(w, 2, n, words, sizeof(words));
		return op_put(w[1], words);
	}
	if (IS("async", 2)) {
		if (nr_children == 64) return EAGAIN;
		if (n >= 3 && device(w[2]) < 0) return errno;
		pid_t pid = fork();
		if (!pid) _exit(run(w + 1, n - 1));
		children[nr_children++] = pid;
		return 0;
	}
	if (IS("join", 1)) {
		*text = 0;
		for (int i = 0; i < nr_children; i++) {
			int status = 0;
			waitpid(children[i], &status, 0);
			error = WEXITSTATUS(status);
			sprintf(text + strlen(text), "%s%s", i ? " " : "", error ? strerrorname_np(error) : "ok");
		}
		nr_children = 0;
		return 0;
	}
	return ENOSYS;
}

int main(int argc, char **argv)
{
	static char line[65536];
	FILE *in = argc > 1 ? fopen(argv[1], "r") : stdin;
	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (!in || control < 0 || posix_memalign((void **)&buffer, 4096, CHUNK)) {
		perror("pool-exec");
		return 1;
	}
	for (long number = 0; fgets(line, sizeof(line), in); number++) {
		char *words[MAX_WORDS];
		int count = 0;
		for (char *word = strtok(line, " \n"); word && count < MAX_WORDS; word = strtok(0, " \n")) words[count++] = word;
		if (!count || words[0][0] == '#') {
			number--;
			continue;
		}
		long before = flushes();
		*text = 0;
		errno = 0;
		int error = run(words, count);
		printf("%ld %s %ld %s\n", number, error ? strerrorname_np(error) : "ok", flushes() - before, error ? "" : text);
	}
	fflush(stdout);
	return 0;
}
