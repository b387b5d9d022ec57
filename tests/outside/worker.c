/* The worker in C: takes items from the address in ZPIPE_CALL until there are no more.
 *
 *     cc -O2 -Wall -Wextra -o worker-c worker.c -lzmq -lmsgpackc
 */

#include <msgpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { FRAMES_MAX = 2048 };

static zmq_msg_t frames[FRAMES_MAX];
static int count = 0; /* of the frames of the last message */

static void check(int result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "worker: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static void receive(void *socket)
{
    int more = 1;
    for (count = 0; more; count++) {
        if (count == FRAMES_MAX) {
            fprintf(stderr, "worker: a message of more than %d frames\n", FRAMES_MAX);
            exit(1);
        }
        zmq_msg_init(&frames[count]);
        check(zmq_msg_recv(&frames[count], socket, 0), "cannot receive");
        more = zmq_msg_more(&frames[count]);
    }
}

static const msgpack_object *find(const msgpack_object *map, const char *key)
{
    for (uint32_t k = 0; map->type == MSGPACK_OBJECT_MAP && k < map->via.map.size; k++) {
        const msgpack_object *name = &map->via.map.ptr[k].key;
        if (name->type == MSGPACK_OBJECT_STR && name->via.str.size == strlen(key) &&
            memcmp(name->via.str.ptr, key, name->via.str.size) == 0)
            return &map->via.map.ptr[k].val;
    }
    return NULL;
}

static void text(msgpack_packer *packer, const char *text)
{
    msgpack_pack_str_with_body(packer, text, strlen(text));
}

static void whole(msgpack_packer *packer, const char *key, long value)
{
    text(packer, key);
    msgpack_pack_long(packer, value);
}

static void pack_made(msgpack_packer *packer, const msgpack_object *item, long nap_us)
{
    if (item->type != MSGPACK_OBJECT_POSITIVE_INTEGER) {
        msgpack_pack_object(packer, *item);
        return;
    }
    if (nap_us) usleep(nap_us);
    msgpack_pack_array(packer, 3);
    msgpack_pack_uint64(packer, item->via.u64);
    msgpack_pack_uint64(packer, item->via.u64 * item->via.u64);
    text(packer, "c");
}

static long number_of(const char *name, long otherwise, long times)
{
    const char *given = getenv(name);
    return given ? (long)(times * atof(given)) : otherwise;
}

int main(void)
{
    long take = number_of("ZPIPE_ARG_TAKE", 1, 1), nap_us = number_of("ZPIPE_ARG_NAP_MS", 0, 1000);
    void *socket = zmq_socket(zmq_ctx_new(), ZMQ_REQ);
    check(zmq_connect(socket, getenv("ZPIPE_CALL")), "cannot connect");
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_unpacked answer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    msgpack_unpacked_init(&answer);
    const msgpack_object *items = NULL;
    for (;;) {
        msgpack_sbuffer_clear(&buffer);
        msgpack_pack_map(&packer, 5);
        whole(&packer, "zpipe", 1);
        whole(&packer, "take", take);
        text(&packer, "raw");
        msgpack_pack_true(&packer);
        text(&packer, "name");
        text(&packer, "c");
        text(&packer, "done");
        msgpack_pack_array(&packer, items ? items->via.array.size : 0);
        for (uint32_t k = 0; items && k < items->via.array.size; k++) {
            const msgpack_object *entry = items->via.array.ptr[k].via.array.ptr;
            msgpack_pack_array(&packer, 2);
            msgpack_pack_object(&packer, entry[0]);
            pack_made(&packer, &entry[1], nap_us);
        }
        /* What came in frames goes out in the same order: their numbers stay true. */
        check(zmq_send(socket, buffer.data, buffer.size, count > 1 ? ZMQ_SNDMORE : 0), "cannot send");
        for (int k = 1; k < count; k++)
            check(zmq_msg_send(&frames[k], socket, k + 1 < count ? ZMQ_SNDMORE : 0), "cannot send");
        if (count) zmq_msg_close(&frames[0]);

        receive(socket);
        if (msgpack_unpack_next(&answer, zmq_msg_data(&frames[0]), zmq_msg_size(&frames[0]), NULL) !=
            MSGPACK_UNPACK_SUCCESS) {
            fprintf(stderr, "worker: what came is not msgpack\n");
            return 1;
        }
        const msgpack_object *error = find(&answer.data, "error");
        if (error) {
            fprintf(stderr, "worker: %.*s\n", (int)error->via.str.size, error->via.str.ptr);
            return 1;
        }
        if (find(&answer.data, "over")) break;
        items = find(&answer.data, "items");
    }
    return 0;
}
