/* The address where a worker asks for items, of a gate or of the stage whose `cmd` it is, and what is said there:
 * docs/protocol.md, part A.  Knows frames, maps and arrays; what an item is for is for others.
 */

#ifndef GATE_H
#define GATE_H

#include <msgpack.h>
#include <stddef.h>
#include <stdint.h>
#include <zmq.h>

enum { FRAMES_MAX = 1025, DIMS_MAX = 32, FRAME = 78 };

struct message {
    zmq_msg_t frames[FRAMES_MAX]; /* the map, and those that it names */
    int count;
};

struct array {
    char type[25]; /* as numpy has it: "<f4" */
    uint32_t dims; /* 0 of a scalar, too */
    size_t shape[DIMS_MAX], size;
    const uint8_t *data;
};

struct gate {
    const char *address, *id;
    void *context, *socket;
};

/* With an `id`, which nobody else has, a gate knows a later connection for the same: so a call that is asked again. */
void open_gate(struct gate *gate, const char *address, const char *id);
void close_gate(struct gate *gate);

/* Ask, with a frame of `size` bytes behind the map where `data` is not NULL; once more, over a new connection, while
 * there is no answer.  What cannot be mended ends the program. */
void ask(struct gate *gate, const msgpack_sbuffer *map, const void *data, size_t size, struct message *answer);
void drop(struct message *message);

/* Read the map of a message; returns what is wrong with it, NULL when nothing is. */
const char *read_map(const struct message *message, msgpack_unpacked *map);

/* As read_map, of an answer: one of another version of the protocol is none. */
const char *read_answer(const struct message *message, msgpack_unpacked *map);

/* Return what stands at a key of a map, NULL when nothing does; keys may be text or bytes. */
const msgpack_object *find(const msgpack_object *map, const char *key);

/* Read an array, or a scalar, of a message; returns what is wrong with it, NULL when nothing is. */
const char *read_array(const msgpack_object *item, const struct message *message, struct array *array);

int is_text(const msgpack_object *value, const char *text);
void pack_text(msgpack_packer *packer, const char *text);

#endif
