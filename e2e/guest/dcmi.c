/* SPDX-License-Identifier: Apache-2.0
 * Teaches OpenIPMI's BMC simulator two commands of DCMI 1.5 (group extension 0xdc): Get DCMI Capabilities Info (0x01)
 * and Get Power Reading (0x02). The options of the module are the watts: current, minimum, maximum and average. They
 * differ, so that a reader that takes the wrong ones is found out. The current watts are one less and one more by
 * turns, as a real machine's are never quite still. Every other DCMI command is refused as unsupported (0xc1). */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <OpenIPMI/serv.h>
#include <OpenIPMI/mcserv.h>

enum { DCMI = 0xdc, GET_CAPABILITIES = 0x01, GET_POWER_READING = 0x02, UNSUPPORTED = 0xc1, WRONG_FIELD = 0xcc };

static unsigned int current, minimum, maximum, average;

static unsigned char *put(unsigned char *at, uint32_t value, int bytes)
{
    for (; bytes > 0; bytes--, value >>= 8)
        *at++ = value & 0xff;
    return at;
}

/* Completion code and group, versions, then (parameter 1) a reserved byte, power management, and access in-band. */
static unsigned char *capabilities(unsigned char *at)
{
    static const unsigned char parameter_1[] = { 1, 5, 2, 0x00, 0x01, 0x01 };

    memcpy(at, parameter_1, sizeof parameter_1);
    return at + sizeof parameter_1;
}

static unsigned char *power_reading(unsigned char *at)
{
    static unsigned int turn;

    turn ^= 2;
    at = put(at, current - 1 + turn, 2);
    at = put(at, minimum, 2);
    at = put(at, maximum, 2);
    at = put(at, average, 2);
    at = put(at, (uint32_t)time(NULL), 4);
    at = put(at, 1000, 4);  /* the statistics' period in ms */
    return put(at, 0x40, 1); /* measurement is active */
}

/* The first byte of a request's data may or may not still be the group, by the version of the simulator. */
static unsigned char selector(const msg_t *message)
{
    unsigned int first = message->len > 0 && message->data[0] == DCMI ? 1 : 0;

    return message->len > first ? message->data[first] : 0;
}

static void answer(lmc_data_t *mc, msg_t *message, unsigned char *data, unsigned int *length, void *unused)
{
    unsigned char *end = data;

    (void)mc;
    (void)unused;
    end = put(end, 0, 1);
    end = put(end, DCMI, 1);
    if (message->cmd != GET_CAPABILITIES && message->cmd != GET_POWER_READING)
        data[0] = UNSUPPORTED;
    else if (selector(message) != 1)
        data[0] = WRONG_FIELD;
    else
        end = message->cmd == GET_CAPABILITIES ? capabilities(end) : power_reading(end);
    *length = end - data;
}

int ipmi_sim_module_init(sys_data_t *system, const char *options)
{
    (void)system;
    if (!options || sscanf(options, "%u %u %u %u", &current, &minimum, &maximum, &average) != 4)
        return -1;
    ipmi_emu_register_group_extension_handler(DCMI, answer, NULL);
    return 0;
}
