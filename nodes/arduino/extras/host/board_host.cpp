// The firmware on a PC, on a pseudo-terminal: the same node, link and interpreter as on the board.
//
//   g++ -std=c++11 -O2 -I src extras/host/board_host.cpp src/maille/*.cpp -o maille-board
//   ./maille-board NAME [MODEL.tiny ...]
//
// Prints the port's path. What an Arduino has and a PC has not: sensors `ramp` and `zero` stand for pins,
// memory stands for the EEPROM (with MAILLE_BOARD_STORE=FILE it is kept there).
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "maille/delivery.h"
#include "maille/node.h"
#include "maille/senses.h"

namespace {

const int MAX_MODELS = 4;
const uint16_t ARENA_BYTES = 16384;
const uint16_t STORE_BYTES = 16384;
const uint16_t RAM_BYTES = 32768;
const uint8_t WINDOW_BYTES = 255;
const uint32_t LONGEST_NAP_MS = 1;

int line = -1;
uint8_t arena[ARENA_BYTES];
uint8_t store[STORE_BYTES];
maille::Node node;
maille::Delivery delivery;
maille::Senses senses;
uint8_t digests[MAX_MODELS][32];

uint64_t now_us() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

uint32_t read_micros() { return static_cast<uint32_t>(now_us()); }
uint16_t free_ram() { return RAM_BYTES - ARENA_BYTES; }

void write_line(void*, const uint8_t* bytes, uint8_t size) {
  // A line with nobody at its end loses what is said.
  if (write(line, bytes, size) < 0) return;
}

bool read_ramp(uint8_t, uint16_t, float& value) {
  static uint8_t step;
  value = static_cast<float>(step++ % 11) / 10.0F;
  return true;
}

bool read_zero(uint8_t, uint16_t, float& value) {
  value = 0.0F;
  return true;
}

const maille::Sensor SENSORS[] = {{"ramp", 1, read_ramp, 0}, {"zero", 0, read_zero, 0}};

// The digest is the shell's to give: `sha256sum` writes it into MODEL.tiny.sha256 as hexadecimal.
bool read_model(const char* path, maille::BuiltInModel& model, uint8_t digest[32]) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) return false;
  static uint8_t documents[MAX_MODELS][65535];
  static int used;
  uint8_t* document = documents[used++];
  const size_t size = fread(document, 1, sizeof documents[0], file);
  fclose(file);
  char name[4096];
  snprintf(name, sizeof name, "%s.sha256", path);
  file = fopen(name, "r");
  if (file == nullptr) return false;
  bool good = true;
  for (int i = 0; i < 32; i++) {
    unsigned value;
    good = good && fscanf(file, "%2x", &value) == 1;
    digest[i] = static_cast<uint8_t>(value);
  }
  fclose(file);
  model.document = document;
  model.size = static_cast<uint16_t>(size);
  model.sha256 = digest;
  model.layers = &maille::tiny::ALL_LAYERS;
  return good;
}

void keep_store(bool save) {
  const char* path = getenv("MAILLE_BOARD_STORE");
  if (path == nullptr) return;
  FILE* file = fopen(path, save ? "wb" : "rb");
  if (file == nullptr) return;
  const size_t done = save ? fwrite(store, 1, sizeof store, file)
                           : fread(store, 1, sizeof store, file);
  (void)done;
  fclose(file);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 2 + MAX_MODELS) {
    fprintf(stderr, "usage: %s NAME [MODEL.tiny ...], at most %d models\n", arguments[0],
            MAX_MODELS);
    return 2;
  }
  static maille::BuiltInModel models[MAX_MODELS];
  for (int i = 2; i < count; i++) {
    if (!read_model(arguments[i], models[i - 2], digests[i - 2])) {
      fprintf(stderr, "%s or its .sha256 cannot be read\n", arguments[i]);
      return 2;
    }
  }
  int other;
  char name[128];
  termios raw;
  memset(&raw, 0, sizeof raw);
  cfmakeraw(&raw);
  raw.c_cflag |= CREAD | CLOCAL | CS8;
  cfsetspeed(&raw, B115200);
  if (openpty(&line, &other, name, &raw, nullptr) != 0) {
    perror("openpty");
    return 1;
  }
  fcntl(line, F_SETFL, O_NONBLOCK);
  printf("%s\n", name);
  fflush(stdout);

  memset(store, 0xFF, sizeof store);
  keep_store(false);
  delivery.begin(maille::Memory::RAM, store, sizeof store, maille::tiny::ALL_LAYERS, arena,
                 sizeof arena);
  senses.begin(SENSORS, sizeof SENSORS / sizeof *SENSORS);
  node.built_in(models, static_cast<uint8_t>(count - 2));
  node.extend(delivery);
  node.extend(senses);

  maille::NodeConfig config;
  memset(&config, 0, sizeof config);
  config.name = arguments[1];
  config.mcu = "host";
  config.clock_hz = 16000000;
  config.flash_bytes = 1 << 20;
  config.flash_free = 1 << 19;
  config.ram_bytes = RAM_BYTES;
  for (uint8_t i = 0; i < sizeof config.identity; i++) {
    const size_t length = strlen(arguments[1]);
    config.identity[i] = i < length ? static_cast<uint8_t>(arguments[1][i]) : 0;
  }
  config.resets = 1;
  maille::LinkConfig link;
  memset(&link, 0, sizeof link);
  link.boot = static_cast<uint32_t>(now_us() ^ static_cast<uint64_t>(getpid()) << 16) | 1;
  link.max_message = MAILLE_MESSAGE_BYTES;
  link.window = WINDOW_BYTES;
  memcpy(link.schema, maille::BOARD_SCHEMA, sizeof link.schema);
  link.rates = 7;
  link.cause = maille::RESET_POWER;
  const maille::Platform platform = {write_line, read_micros, free_ram};
  node.begin(config, platform, link, arena, sizeof arena, static_cast<uint32_t>(now_us() / 1000));

  for (;;) {
    pollfd waiting[2] = {{line, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    poll(waiting, 2, static_cast<int>(LONGEST_NAP_MS));
    uint8_t bytes[256];
    const ssize_t size = read(line, bytes, sizeof bytes);
    const uint32_t now_ms = static_cast<uint32_t>(now_us() / 1000);
    for (ssize_t i = 0; i < size; i++) node.receive(bytes[i], now_ms);
    node.poll(now_ms);
    node.new_baud();  // a pseudo-terminal carries bytes at any speed
    if (waiting[1].revents & (POLLIN | POLLHUP)) {
      if (read(STDIN_FILENO, bytes, sizeof bytes) == 0) {  // whoever started us is gone
        keep_store(true);
        return 0;
      }
    }
  }
}
