/* Greys images and shrinks them: a stage of zpipe in C.  It takes items from the address in ZPIPE_CALL until there are
 * no more, large arrays as frames of their own; the messages are those of docs/foreign.md.
 *
 *     cc -O2 -Wall -Wextra -o grey grey.c -lzmq -lmsgpackc
 *
 * In: uint8 (h, w, 3)      Out: uint8 (ZPIPE_ARG_HEIGHT, ZPIPE_ARG_WIDTH), each pixel the mean of those that it covers
 */

#include <msgpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { FRAMES_MAX = 1025, RAW = 78, SIDE_MAX = 1 << 16 };

/* -- messages ------------------------------------------------------------------------------------------------- */

struct message {
    zmq_msg_t frames[FRAMES_MAX];
    int count;
};

static void fail(const char *what)
{
    fprintf(stderr, "grey: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static void receive(void *socket, struct message *message)
{
    int more = 1;
    for (message->count = 0; more; message->count++) {
        if (message->count == FRAMES_MAX) {
            fprintf(stderr, "grey: a message of more than %d frames\n", FRAMES_MAX);
            exit(1);
        }
        zmq_msg_t *frame = &message->frames[message->count];
        zmq_msg_init(frame);
        if (zmq_msg_recv(frame, socket, 0) < 0) fail("cannot receive");
        more = zmq_msg_more(frame);
    }
}

static void drop(struct message *message)
{
    while (message->count > 0) zmq_msg_close(&message->frames[--message->count]);
}

/* Return what stands at a key of a map, NULL when nothing does; keys may be text or bytes. */
static const msgpack_object *find(const msgpack_object *map, const char *key)
{
    if (map->type != MSGPACK_OBJECT_MAP) return NULL;
    for (uint32_t k = 0; k < map->via.map.size; k++) {
        const msgpack_object *name = &map->via.map.ptr[k].key;
        int is_text = name->type == MSGPACK_OBJECT_STR || name->type == MSGPACK_OBJECT_BIN;
        if (is_text && name->via.str.size == strlen(key) && memcmp(name->via.str.ptr, key, name->via.str.size) == 0)
            return &map->via.map.ptr[k].val;
    }
    return NULL;
}

static int is_text(const msgpack_object *value, const char *text)
{
    return value && value->type == MSGPACK_OBJECT_STR && value->via.str.size == strlen(text) &&
           memcmp(value->via.str.ptr, text, strlen(text)) == 0;
}

static void pack_text(msgpack_packer *packer, const char *text)
{
    msgpack_pack_str(packer, strlen(text));
    msgpack_pack_str_body(packer, text, strlen(text));
}

/* -- images --------------------------------------------------------------------------------------------------- */

struct image {
    const uint8_t *pixels;
    size_t height, width;
};

/* Read an array of an item; returns what is wrong with it, NULL when it is an image. */
static const char *read_image(const msgpack_object *item, const struct message *message, struct image *image)
{
    const msgpack_object *shape = find(item, "shape"), *data = find(item, "data");
    if (!find(item, "nd") || !shape || !data) return "no array";
    if (!is_text(find(item, "type"), "|u1")) return "an array of another type than uint8";
    if (shape->type != MSGPACK_OBJECT_ARRAY || shape->via.array.size != 3) return "an array of other dimensions than 3";
    size_t sides[3];
    for (int k = 0; k < 3; k++) {
        const msgpack_object *side = &shape->via.array.ptr[k];
        if (side->type != MSGPACK_OBJECT_POSITIVE_INTEGER || side->via.u64 == 0 || side->via.u64 > SIDE_MAX)
            return "an array without pixels, or of too many";
        sides[k] = side->via.u64;
    }
    if (sides[2] != 3) return "an image of other colours than 3";
    size_t size = 0;
    if (data->type == MSGPACK_OBJECT_BIN) {
        image->pixels = (const uint8_t *)data->via.bin.ptr;
        size = data->via.bin.size;
    } else if (data->type == MSGPACK_OBJECT_EXT && data->via.ext.type == RAW && data->via.ext.size == 4) {
        const uint8_t *number = (const uint8_t *)data->via.ext.ptr;
        uint32_t index = (uint32_t)number[0] << 24 | number[1] << 16 | number[2] << 8 | number[3];
        if (index + 1 >= (uint32_t)message->count) return "an array whose frame is not there";
        image->pixels = zmq_msg_data((zmq_msg_t *)&message->frames[index + 1]);
        size = zmq_msg_size(&message->frames[index + 1]);
    }
    image->height = sides[0];
    image->width = sides[1];
    return size == sides[0] * sides[1] * 3 ? NULL : "an array whose sizes do not agree";
}

/* Write the mean of the luma, ITU-R BT.601, over the pixels that each one of the small image covers. */
static void shrink(const struct image *image, uint8_t *out, size_t height, size_t width)
{
    for (size_t y = 0; y < height; y++) {
        size_t top = y * image->height / height, bottom = (y + 1) * image->height / height;
        bottom += bottom == top;
        for (size_t x = 0; x < width; x++) {
            size_t left = x * image->width / width, right = (x + 1) * image->width / width;
            right += right == left;
            uint64_t sum = 0;
            for (size_t v = top; v < bottom; v++) {
                const uint8_t *pixel = image->pixels + 3 * (v * image->width + left);
                for (size_t u = left; u < right; u++, pixel += 3) sum += 299 * pixel[0] + 587 * pixel[1] + 114 * pixel[2];
            }
            uint64_t count = 1000 * (uint64_t)(bottom - top) * (right - left);
            *out++ = (uint8_t)((sum + count / 2) / count);
        }
    }
}

/* -- the stage ------------------------------------------------------------------------------------------------ */

static size_t side_of(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    if (!text) return otherwise;
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < 1 || value > SIDE_MAX) {
        fprintf(stderr, "grey: %s is '%s': give a number of pixels, at least 1\n", name, text);
        exit(2);
    }
    return (size_t)value;
}

int main(void)
{
    const char *address = getenv("ZPIPE_CALL");
    if (!address) {
        fprintf(stderr, "grey: ZPIPE_CALL is not set: name this program as the cmd of a stage\n");
        return 2;
    }
    size_t height = side_of("ZPIPE_ARG_HEIGHT", 64), width = side_of("ZPIPE_ARG_WIDTH", 64);
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_REQ);
    if (zmq_connect(socket, address) < 0) fail("cannot connect");

    struct message *message = malloc(sizeof *message);
    uint8_t *out = malloc(height * width);
    msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer packer;
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    char token[256] = "";
    const char *fault = NULL;

    for (;;) { /* what came of the last item, and the wish for the next one */
        msgpack_sbuffer_clear(&buffer);
        msgpack_pack_map(&packer, *token ? 4 : 3);
        pack_text(&packer, "zpipe");
        msgpack_pack_int(&packer, 1);
        pack_text(&packer, "take");
        msgpack_pack_int(&packer, 1);
        pack_text(&packer, "raw");
        msgpack_pack_true(&packer);
        if (*token) {
            pack_text(&packer, fault ? "failed" : "done");
            msgpack_pack_array(&packer, 1);
            msgpack_pack_array(&packer, 2);
            pack_text(&packer, token);
            if (fault) {
                pack_text(&packer, fault);
            } else {
                msgpack_pack_map(&packer, 5);
                pack_text(&packer, "nd");
                msgpack_pack_true(&packer);
                pack_text(&packer, "type");
                pack_text(&packer, "|u1");
                pack_text(&packer, "kind");
                pack_text(&packer, "");
                pack_text(&packer, "shape");
                msgpack_pack_array(&packer, 2);
                msgpack_pack_uint64(&packer, height);
                msgpack_pack_uint64(&packer, width);
                pack_text(&packer, "data");
                msgpack_pack_ext(&packer, 4, RAW);
                msgpack_pack_ext_body(&packer, "\0\0\0\0", 4);
            }
        }
        int has_frame = *token && !fault;
        if (zmq_send(socket, buffer.data, buffer.size, has_frame ? ZMQ_SNDMORE : 0) < 0) fail("cannot send");
        if (has_frame && zmq_send(socket, out, height * width, 0) < 0) fail("cannot send");

        receive(socket, message);
        msgpack_unpacked answer;
        msgpack_unpacked_init(&answer);
        if (msgpack_unpack_next(&answer, zmq_msg_data(&message->frames[0]), zmq_msg_size(&message->frames[0]), NULL) !=
            MSGPACK_UNPACK_SUCCESS) {
            fprintf(stderr, "grey: what came is not msgpack\n");
            return 1;
        }
        const msgpack_object *items = find(&answer.data, "items"), *error = find(&answer.data, "error");
        int is_over = find(&answer.data, "over") != NULL;
        if (error) {
            fprintf(stderr, "grey: refused: %.*s\n", (int)error->via.str.size, error->via.str.ptr);
            return 1;
        }
        *token = 0;
        if (!is_over && items && items->type == MSGPACK_OBJECT_ARRAY && items->via.array.size) {
            const msgpack_object *pair = items->via.array.ptr[0].via.array.ptr;
            snprintf(token, sizeof token, "%.*s", (int)pair[0].via.str.size, pair[0].via.str.ptr);
            struct image image = {0};
            fault = read_image(&pair[1], message, &image);
            if (!fault) shrink(&image, out, height, width);
        }
        msgpack_unpacked_destroy(&answer);
        drop(message);
        if (is_over) break;
    }
    msgpack_sbuffer_destroy(&buffer);
    free(message);
    free(out);
    zmq_close(socket);
    zmq_ctx_term(context);
    return 0;
}
