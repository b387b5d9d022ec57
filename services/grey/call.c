/* Calls a stage at its gate for each text, and prints what it makes of it: a client of zpipe in C.
 *
 *     call ADDRESS TEXT...
 *
 * See docs/protocol.md, part A.
 */

#include "gate.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void print_array(const msgpack_object *value, const struct message *message)
{
    struct array array;
    const char *fault = read_array(value, message, &array);
    if (fault) {
        printf("<%s>", fault);
        return;
    }
    printf("<array %s", array.type);
    for (uint32_t k = 0; k < array.dims; k++) printf(" %zu", array.shape[k]);
    printf(">");
}

static void print(const msgpack_object *value, const struct message *message)
{
    switch (value->type) {
    case MSGPACK_OBJECT_MAP:
        if (find(value, "nd")) {
            print_array(value, message);
            return;
        }
        printf("{");
        for (uint32_t k = 0; k < value->via.map.size; k++) {
            if (k) printf(", ");
            print(&value->via.map.ptr[k].key, message);
            printf(": ");
            print(&value->via.map.ptr[k].val, message);
        }
        printf("}");
        return;
    case MSGPACK_OBJECT_ARRAY:
        printf("[");
        for (uint32_t k = 0; k < value->via.array.size; k++) {
            if (k) printf(", ");
            print(&value->via.array.ptr[k], message);
        }
        printf("]");
        return;
    default:
        msgpack_object_print(stdout, *value);
    }
}

/* Print the outcome of a call; returns whether it is a result. */
static int said(const msgpack_object *answer, const struct message *message)
{
    const msgpack_object *done = find(answer, "done"), *failed = find(answer, "failed"), *error = find(answer, "error");
    const msgpack_object *entries = done ? done : failed;
    if (entries && entries->type == MSGPACK_OBJECT_ARRAY && entries->via.array.size == 1) {
        const msgpack_object *entry = &entries->via.array.ptr[0];
        if (entry->type == MSGPACK_OBJECT_ARRAY && entry->via.array.size == 2) error = &entry->via.array.ptr[1];
    } else {
        done = NULL;
    }
    if (!done) printf("call: ");
    if (error) print(error, message);
    printf("\n");
    return done != NULL;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "call: whom to call, and for what: call ADDRESS TEXT...\n");
        return 2;
    }
    static struct message message;
    static char self[80]; /* that no other has */
    snprintf(self, sizeof self, "call %ld %" PRIdMAX, (long)getpid(), (intmax_t)time(NULL));
    struct gate gate;
    open_gate(&gate, argv[1], self);
    msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer packer;
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    int status = 0;
    for (int k = 2; k < argc; k++) {
        char id[20];
        snprintf(id, sizeof id, "%d", k);
        msgpack_sbuffer_clear(&buffer);
        msgpack_pack_map(&packer, 3);
        pack_text(&packer, "zpipe");
        msgpack_pack_int(&packer, 1);
        pack_text(&packer, "raw");
        msgpack_pack_true(&packer);
        pack_text(&packer, "call");
        msgpack_pack_array(&packer, 1);
        msgpack_pack_array(&packer, 2);
        pack_text(&packer, id);
        pack_text(&packer, argv[k]);
        ask(&gate, &buffer, NULL, 0, &message);
        msgpack_unpacked answer;
        msgpack_unpacked_init(&answer);
        const char *fault = read_answer(&message, &answer);
        if (fault) fprintf(stderr, "call: what is answered cannot be read: %s\n", fault);
        if (fault || !said(&answer.data, &message)) status = 1;
        msgpack_unpacked_destroy(&answer);
        drop(&message);
    }
    msgpack_sbuffer_destroy(&buffer);
    close_gate(&gate);
    return status;
}
