/* Greys images and shrinks them: a worker of zpipe in C.  It takes items from a gate, or as the `cmd` of a stage, until
 * there are no more, large arrays as frames of their own.
 *
 *     cc -O2 -Wall -Wextra -o grey grey.c gate.c -lzmq -lmsgpackc
 *
 * In: uint8 (h, w, 3)      Out: uint8 (ZPIPE_ARG_HEIGHT, ZPIPE_ARG_WIDTH), each pixel the mean of those that it covers
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gate.h"

enum { SIDE_MAX = 1 << 16, TOKEN_MAX = 4 * 256, FAULT_MAX = 1024 };

/* -- images --------------------------------------------------------------------------------------------------- */

struct image {
    const uint8_t *pixels;
    size_t height, width;
};

/* Read an image of an item; returns what is wrong with it, NULL when it is one. */
static const char *read_image(const msgpack_object *item, const struct message *message, struct image *image)
{
    struct array array;
    const char *fault = read_array(item, message, &array);
    if (fault) return fault;
    if (strcmp(array.type, "|u1") != 0) return "an array of another type than uint8";
    if (array.dims != 3) return "an array of other dimensions than 3";
    for (int k = 0; k < 3; k++)
        if (array.shape[k] == 0 || array.shape[k] > SIDE_MAX) return "an array without pixels, or of too many";
    if (array.shape[2] != 3) return "an image of other colours than 3";
    *image = (struct image){array.data, array.shape[0], array.shape[1]};
    return NULL;
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

/* -- the worker ----------------------------------------------------------------------------------------------- */

/* What came of an item; `token` is empty when there was none. */
struct outcome {
    char token[TOKEN_MAX + 1];
    char fault[FAULT_MAX + 1]; /* empty when the image is there */
    uint8_t *image;
    size_t height, width;
};

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

static void put_text(char *target, size_t most, const msgpack_object *text)
{
    int is_given = text && text->type == MSGPACK_OBJECT_STR;
    snprintf(target, most + 1, "%.*s", is_given ? (int)text->via.str.size : 0, is_given ? text->via.str.ptr : "");
}

/* Say what came of the last item, and that the next one is wanted. */
static void pack_ask(msgpack_packer *packer, const char *name, const struct outcome *outcome)
{
    msgpack_pack_map(packer, *outcome->token ? 5 : 4);
    pack_text(packer, "zpipe");
    msgpack_pack_int(packer, 1);
    pack_text(packer, "name");
    pack_text(packer, name);
    pack_text(packer, "take");
    msgpack_pack_int(packer, 1);
    pack_text(packer, "raw");
    msgpack_pack_true(packer);
    if (!*outcome->token) return;
    pack_text(packer, *outcome->fault ? "failed" : "done");
    msgpack_pack_array(packer, 1);
    msgpack_pack_array(packer, 2);
    pack_text(packer, outcome->token);
    if (*outcome->fault) {
        pack_text(packer, outcome->fault);
        return;
    }
    msgpack_pack_map(packer, 5);
    pack_text(packer, "nd");
    msgpack_pack_true(packer);
    pack_text(packer, "type");
    pack_text(packer, "|u1");
    pack_text(packer, "kind");
    pack_text(packer, "");
    pack_text(packer, "shape");
    msgpack_pack_array(packer, 2);
    msgpack_pack_uint64(packer, outcome->height);
    msgpack_pack_uint64(packer, outcome->width);
    pack_text(packer, "data");
    msgpack_pack_ext(packer, 4, FRAME);
    msgpack_pack_ext_body(packer, "\0\0\0\0", 4);
}

/* Do the item of an answer, if there is one. */
static void work(const msgpack_object *items, const struct message *message, struct outcome *outcome)
{
    *outcome->token = *outcome->fault = 0;
    if (!items || items->type != MSGPACK_OBJECT_ARRAY || !items->via.array.size) return;
    const msgpack_object *entry = &items->via.array.ptr[0];
    if (entry->type != MSGPACK_OBJECT_ARRAY || entry->via.array.size != 2) return;
    put_text(outcome->token, TOKEN_MAX, &entry->via.array.ptr[0]);
    struct image image;
    const char *fault = read_image(&entry->via.array.ptr[1], message, &image);
    if (fault)
        snprintf(outcome->fault, sizeof outcome->fault, "%s", fault);
    else
        shrink(&image, outcome->image, outcome->height, outcome->width);
}

static void say_refused(const msgpack_object *refused)
{
    if (!refused || refused->type != MSGPACK_OBJECT_ARRAY) return;
    for (uint32_t k = 0; k < refused->via.array.size; k++) {
        const msgpack_object *entry = &refused->via.array.ptr[k];
        if (entry->type != MSGPACK_OBJECT_ARRAY || entry->via.array.size != 2) continue;
        char token[TOKEN_MAX + 1], why[FAULT_MAX + 1];
        put_text(token, TOKEN_MAX, &entry->via.array.ptr[0]);
        put_text(why, FAULT_MAX, &entry->via.array.ptr[1]);
        fprintf(stderr, "grey: %s is refused: %s\n", token, why);
    }
}

/* Take up an answer; returns whether more is to come. */
static int take_up(const msgpack_object *answer, const struct message *message, struct outcome *outcome)
{
    const msgpack_object *error = find(answer, "error"), *items = find(answer, "items");
    if (find(answer, "over")) return 0;
    say_refused(find(answer, "refused"));
    int is_at_hand = *outcome->token && !*outcome->fault;
    if (error) {
        put_text(outcome->fault, FAULT_MAX, error);
        fprintf(stderr, "grey: it is answered: %s\n", outcome->fault);
    }
    if (!error || items) {
        work(items, message, outcome);
    } else if (!is_at_hand) { /* the ask did nothing, and there is none that would */
        exit(1);
    }
    return 1;
}

static const char *name_of_this(void)
{
    static char name[300];
    if (getenv("ZPIPE_NAME")) return getenv("ZPIPE_NAME");
    gethostname(name, 255);
    snprintf(name + strlen(name), 40, ":%ld", (long)getpid());
    return name;
}

int main(int argc, char **argv)
{
    const char *address = argc > 1 ? argv[1] : getenv("ZPIPE_CALL");
    if (!address) {
        fprintf(stderr, "grey: whom to ask: give the address of a gate, or name this program as the cmd of a stage\n");
        return 2;
    }
    static struct outcome outcome;
    static struct message message;
    outcome.height = side_of("ZPIPE_ARG_HEIGHT", 64);
    outcome.width = side_of("ZPIPE_ARG_WIDTH", 64);
    outcome.image = malloc(outcome.height * outcome.width);
    struct gate gate;
    open_gate(&gate, address, NULL);
    msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer packer;
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);

    for (int goes_on = 1; goes_on;) {
        msgpack_sbuffer_clear(&buffer);
        pack_ask(&packer, name_of_this(), &outcome);
        int has_image = *outcome.token && !*outcome.fault;
        ask(&gate, &buffer, has_image ? outcome.image : NULL, outcome.height * outcome.width, &message);
        msgpack_unpacked answer;
        msgpack_unpacked_init(&answer);
        const char *fault = read_answer(&message, &answer);
        if (fault) {
            fprintf(stderr, "grey: what is answered cannot be read: %s\n", fault);
            return 1;
        }
        goes_on = take_up(&answer.data, &message, &outcome);
        msgpack_unpacked_destroy(&answer);
        drop(&message);
    }
    msgpack_sbuffer_destroy(&buffer);
    free(outcome.image);
    close_gate(&gate);
    return 0;
}
