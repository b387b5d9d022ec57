/* Reads messages as gate.c does, one a line, their frames in hex with commas between, and writes what they say, one a
 * line, in the JSON of tests/conformance/outside.json; {"refused": WHY} of those that break a rule.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "../gate.h"

enum { EXACT_BITS = 53 };

static struct message message;

static void put_hex(FILE *out, const void *bytes, size_t size)
{
    fputc('"', out);
    for (size_t k = 0; k < size; k++) fprintf(out, "%02x", ((const uint8_t *)bytes)[k]);
    fputc('"', out);
}

static void put_text(FILE *out, const char *text, size_t size)
{
    fputc('"', out);
    for (size_t k = 0; k < size; k++) {
        if ((uint8_t)text[k] < 32) {
            fprintf(out, "\\u%04x", text[k]);
            continue;
        }
        if (text[k] == '"' || text[k] == '\\') fputc('\\', out);
        fputc(text[k], out);
    }
    fputc('"', out);
}

static const char *put_array(FILE *out, const msgpack_object *value)
{
    struct array array;
    const char *fault = read_array(value, &message, &array);
    if (fault) return fault;
    fprintf(out, "{\"%s\": \"%s\", \"shape\": [", find(value, "nd")->via.boolean ? "array" : "scalar", array.type);
    for (uint32_t k = 0; k < array.dims; k++) fprintf(out, "%s%zu", k ? ", " : "", array.shape[k]);
    fprintf(out, "], \"hex\": ");
    put_hex(out, array.data, array.size);
    fputc('}', out);
    return NULL;
}

/* Write a value; returns what is wrong with it, NULL when nothing is. */
static const char *put(FILE *out, const msgpack_object *value)
{
    const char *fault = NULL;
    switch (value->type) {
    case MSGPACK_OBJECT_NIL: fputs("null", out); break;
    case MSGPACK_OBJECT_BOOLEAN: fputs(value->via.boolean ? "true" : "false", out); break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        fprintf(out, value->via.u64 >> EXACT_BITS ? "{\"int\": \"%" PRIu64 "\"}" : "%" PRIu64, value->via.u64);
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        fprintf(out, -(value->via.i64 + 1) >> EXACT_BITS ? "{\"int\": \"%" PRId64 "\"}" : "%" PRId64, value->via.i64);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64: fprintf(out, "%.17g", value->via.f64); break;
    case MSGPACK_OBJECT_STR: put_text(out, value->via.str.ptr, value->via.str.size); break;
    case MSGPACK_OBJECT_BIN:
        fputs("{\"bytes\": ", out);
        put_hex(out, value->via.bin.ptr, value->via.bin.size);
        fputc('}', out);
        break;
    case MSGPACK_OBJECT_EXT:
        fprintf(out, "{\"ext\": %d, \"hex\": ", value->via.ext.type);
        put_hex(out, value->via.ext.ptr, value->via.ext.size);
        fputc('}', out);
        break;
    case MSGPACK_OBJECT_ARRAY:
        fputc('[', out);
        for (uint32_t k = 0; k < value->via.array.size && !fault; k++) {
            if (k) fputs(", ", out);
            fault = put(out, &value->via.array.ptr[k]);
        }
        fputc(']', out);
        break;
    case MSGPACK_OBJECT_MAP:
        if (find(value, "nd")) return put_array(out, value);
        fputc('{', out);
        for (uint32_t k = 0; k < value->via.map.size && !fault; k++) {
            const msgpack_object *key = &value->via.map.ptr[k].key;
            if (key->type != MSGPACK_OBJECT_STR) return "a key that is no text";
            if (k) fputs(", ", out);
            put_text(out, key->via.str.ptr, key->via.str.size);
            fputs(": ", out);
            fault = put(out, &value->via.map.ptr[k].val);
        }
        fputc('}', out);
        break;
    }
    return fault;
}

static void read_frames(char *line)
{
    for (char *hex = line; hex; ) {
        char *end = strpbrk(hex, ",\n");
        size_t size = (size_t)(end - hex) / 2;
        zmq_msg_t *frame = &message.frames[message.count++];
        zmq_msg_init_size(frame, size);
        for (size_t k = 0; k < size; k++) {
            char byte[3] = {hex[2 * k], hex[2 * k + 1], 0};
            ((uint8_t *)zmq_msg_data(frame))[k] = (uint8_t)strtoul(byte, NULL, 16);
        }
        hex = *end == ',' ? end + 1 : NULL;
    }
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        read_frames(line);
        msgpack_unpacked map;
        msgpack_unpacked_init(&map);
        char *said = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&said, &size);
        const char *fault = read_map(&message, &map);
        if (!fault) fault = put(out, &map.data);
        fclose(out);
        if (fault)
            printf("{\"refused\": \"%s\"}\n", fault);
        else
            puts(said);
        free(said);
        msgpack_unpacked_destroy(&map);
        drop(&message);
    }
    free(line);
    return 0;
}
