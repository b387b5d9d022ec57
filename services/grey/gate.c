#include "gate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MS = 5000 }; /* a gate that has not answered by then may have been started anew */

/* -- asking --------------------------------------------------------------------------------------------------- */

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static void dial(struct gate *gate)
{
    /* A stage that has started this program, at ipc, answers when it has an item, and does not end before it. */
    int wait_ms = strncmp(gate->address, "ipc:", 4) == 0 ? -1 : ANSWER_MS, linger_ms = 0;
    gate->socket = zmq_socket(gate->context, ZMQ_REQ);
    zmq_setsockopt(gate->socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    zmq_setsockopt(gate->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    if (gate->id) zmq_setsockopt(gate->socket, ZMQ_ROUTING_ID, gate->id, strlen(gate->id));
    if (zmq_connect(gate->socket, gate->address) < 0) fail(gate->address);
}

void open_gate(struct gate *gate, const char *address, const char *id)
{
    gate->address = address;
    gate->id = id;
    gate->context = zmq_ctx_new();
    dial(gate);
}

void close_gate(struct gate *gate)
{
    zmq_close(gate->socket);
    zmq_ctx_term(gate->context);
}

/* Return whether a message came in time. */
static int receive(void *socket, struct message *message)
{
    int more = 1;
    for (message->count = 0; more; message->count++) {
        if (message->count == FRAMES_MAX) {
            fprintf(stderr, "a message of more than %d frames\n", FRAMES_MAX);
            exit(1);
        }
        zmq_msg_t *frame = &message->frames[message->count];
        zmq_msg_init(frame);
        while (zmq_msg_recv(frame, socket, 0) < 0) {
            if (zmq_errno() == EAGAIN) return 0;
            if (zmq_errno() != EINTR) fail("cannot receive");
        }
        more = zmq_msg_more(frame);
    }
    return 1;
}

void ask(struct gate *gate, const msgpack_sbuffer *map, const void *data, size_t size, struct message *answer)
{
    for (;;) {
        if (zmq_send(gate->socket, map->data, map->size, data ? ZMQ_SNDMORE : 0) < 0) fail("cannot send");
        if (data && zmq_send(gate->socket, data, size, 0) < 0) fail("cannot send");
        if (receive(gate->socket, answer)) return;
        zmq_close(gate->socket);
        dial(gate);
    }
}

void drop(struct message *message)
{
    while (message->count > 0) zmq_msg_close(&message->frames[--message->count]);
}

/* -- reading -------------------------------------------------------------------------------------------------- */

const char *read_map(const struct message *message, msgpack_unpacked *map)
{
    zmq_msg_t *frame = (zmq_msg_t *)&message->frames[0];
    size_t end = 0;
    msgpack_unpack_return how = msgpack_unpack_next(map, zmq_msg_data(frame), zmq_msg_size(frame), &end);
    return how == MSGPACK_UNPACK_SUCCESS && end == zmq_msg_size(frame) ? NULL : "it is not msgpack";
}

const char *read_answer(const struct message *message, msgpack_unpacked *map)
{
    const char *fault = read_map(message, map);
    if (fault) return fault;
    const msgpack_object *version = find(&map->data, "zpipe");
    int is_ours = version && version->type == MSGPACK_OBJECT_POSITIVE_INTEGER && version->via.u64 == 1;
    return is_ours ? NULL : "it is not of version 1 of the protocol";
}

const msgpack_object *find(const msgpack_object *map, const char *key)
{
    if (map->type != MSGPACK_OBJECT_MAP) return NULL;
    for (uint32_t k = 0; k < map->via.map.size; k++) {
        const msgpack_object *name = &map->via.map.ptr[k].key;
        int is_key = name->type == MSGPACK_OBJECT_STR || name->type == MSGPACK_OBJECT_BIN;
        if (is_key && name->via.str.size == strlen(key) && memcmp(name->via.str.ptr, key, name->via.str.size) == 0)
            return &map->via.map.ptr[k].val;
    }
    return NULL;
}

int is_text(const msgpack_object *value, const char *text)
{
    return value && value->type == MSGPACK_OBJECT_STR && value->via.str.size == strlen(text) &&
           memcmp(value->via.str.ptr, text, strlen(text)) == 0;
}

/* Return the bytes of one value of a type, 0 when there is no such type. */
static size_t size_of(const char *type)
{
    type += strspn(type, "<>|") > 0;
    if (!*type || !strchr("biufcMm", *type)) return 0;
    char *end;
    size_t size = strtoul(type + 1, &end, 10);
    int is_size = size == 1 || size == 2 || size == 4 || size == 8 || size == 16;
    return is_size && (*end == 0 || *end == '[') ? size : 0;
}

/* Read where the bytes of an array are. */
static const char *read_data(const msgpack_object *data, const struct message *message, struct array *array)
{
    if (data->type == MSGPACK_OBJECT_BIN) {
        array->data = (const uint8_t *)data->via.bin.ptr;
        array->size = data->via.bin.size;
        return NULL;
    }
    if (data->type != MSGPACK_OBJECT_EXT || data->via.ext.type != FRAME || data->via.ext.size != 4)
        return "an array without bytes";
    const uint8_t *number = (const uint8_t *)data->via.ext.ptr;
    uint32_t index = (uint32_t)number[0] << 24 | number[1] << 16 | number[2] << 8 | number[3];
    if (index >= (uint32_t)message->count - 1) return "an array whose frame is not there";
    array->data = zmq_msg_data((zmq_msg_t *)&message->frames[index + 1]);
    array->size = zmq_msg_size((zmq_msg_t *)&message->frames[index + 1]);
    return NULL;
}

const char *read_array(const msgpack_object *item, const struct message *message, struct array *array)
{
    const msgpack_object *nd = find(item, "nd"), *type = find(item, "type"), *data = find(item, "data");
    if (!nd || nd->type != MSGPACK_OBJECT_BOOLEAN || !type || !data) return "no array";
    const msgpack_object *shape = find(item, "shape");
    *array = (struct array){0};
    if (type->type != MSGPACK_OBJECT_STR || type->via.str.size >= sizeof array->type)
        return "an array of a type that may not travel";
    memcpy(array->type, type->via.str.ptr, type->via.str.size);
    size_t needed = size_of(array->type);
    if (!needed) return "an array of a type that may not travel";
    if (nd->via.boolean) {
        if (!shape || shape->type != MSGPACK_OBJECT_ARRAY || shape->via.array.size > DIMS_MAX)
            return "an array without a shape";
        array->dims = shape->via.array.size;
    }
    for (uint32_t k = 0; k < array->dims; k++) {
        const msgpack_object *side = &shape->via.array.ptr[k];
        if (side->type != MSGPACK_OBJECT_POSITIVE_INTEGER) return "an array without a shape";
        array->shape[k] = side->via.u64;
        if (__builtin_mul_overflow(needed, array->shape[k], &needed)) return "an array whose sizes do not agree";
    }
    const char *fault = read_data(data, message, array);
    return fault || array->size == needed ? fault : "an array whose sizes do not agree";
}

void pack_text(msgpack_packer *packer, const char *text)
{
    msgpack_pack_str(packer, strlen(text));
    msgpack_pack_str_body(packer, text, strlen(text));
}
