// A key-value store for ranks to meet at: one thread with a libuv loop, as in PyTorch. Frames are
// op (1 byte: S set, G get), key and value, each with its length in 4 bytes, the lowest first;
// the answer is a value. A get waits until its key is set.
#ifdef USE_C10D_GLOO
namespace c10d {
struct ProcessGroupGloo {
  virtual ~ProcessGroupGloo();
};
ProcessGroupGloo::~ProcessGroupGloo() {}
}  // namespace c10d
#endif

namespace c10d {
struct TCPStore {
  virtual ~TCPStore();
};
TCPStore::~TCPStore() {}
}  // namespace c10d

#ifdef TORCH_USE_LIBUV
#include <uv.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace c10d::detail {

struct Client {
  uv_tcp_t stream;
  std::string data;
};

struct Answer {
  uv_write_t request;
  std::string data;
};

class BackgroundThread {
 public:
  virtual ~BackgroundThread() = default;
  virtual void run() = 0;
};

class LibUVStoreDaemon : public BackgroundThread {
 public:
  int port = 0;
  uv_loop_t loop;
  uv_tcp_t server;
  std::map<std::string, std::string> values;
  std::vector<std::pair<std::string, Client*>> waiting;

  bool listen(int wanted) {
    sockaddr_in address;
    uv_loop_init(&loop);
    uv_tcp_init(&loop, &server);
    server.data = this;
    uv_ip4_addr("127.0.0.1", wanted, &address);
    if (uv_tcp_bind(&server, reinterpret_cast<sockaddr*>(&address), 0) != 0) return false;
    if (uv_listen(reinterpret_cast<uv_stream_t*>(&server), 16, connected) != 0) return false;
    int size = sizeof(address);
    uv_tcp_getsockname(&server, reinterpret_cast<sockaddr*>(&address), &size);
    port = ntohs(address.sin_port);
    return true;
  }

  void run() override { uv_run(&loop, UV_RUN_DEFAULT); }

  static void connected(uv_stream_t* server, int status) {
    if (status < 0) return;
    auto* daemon = static_cast<LibUVStoreDaemon*>(server->data);
    auto* client = new Client;
    uv_tcp_init(&daemon->loop, &client->stream);
    client->stream.data = client;
    if (uv_accept(server, reinterpret_cast<uv_stream_t*>(&client->stream)) == 0)
      uv_read_start(reinterpret_cast<uv_stream_t*>(&client->stream), room, got);
  }

  static void room(uv_handle_t*, size_t size, uv_buf_t* buffer) {
    *buffer = uv_buf_init(new char[size], static_cast<unsigned>(size));
  }

  static void got(uv_stream_t* stream, ssize_t count, const uv_buf_t* buffer) {
    auto* client = static_cast<Client*>(stream->data);
    auto* daemon = static_cast<LibUVStoreDaemon*>(daemon_of(stream->loop));
    if (count > 0) client->data.append(buffer->base, static_cast<size_t>(count));
    delete[] buffer->base;
    if (count < 0) {
      uv_read_stop(stream);
      return;
    }
    daemon->answer(client);
  }

  static void* daemon_of(uv_loop_t* loop);

  static uint32_t length(const std::string& data, size_t at) {
    uint32_t n;
    std::memcpy(&n, data.data() + at, 4);
    return n;
  }

  void answer(Client* client) {
    std::string& data = client->data;
    while (data.size() >= 9) {
      uint32_t key_size = length(data, 1);
      if (data.size() < 9 + key_size) return;
      uint32_t value_size = length(data, 5 + key_size);
      if (data.size() < 9 + key_size + value_size) return;
      std::string key = data.substr(5, key_size);
      if (data[0] == 'S') {
        values[key] = data.substr(9 + key_size, value_size);
        send(client, "");
        for (size_t i = 0; i < waiting.size();) {
          if (waiting[i].first == key) {
            send(waiting[i].second, values[key]);
            waiting.erase(waiting.begin() + static_cast<long>(i));
          } else {
            ++i;
          }
        }
      } else if (values.count(key)) {
        send(client, values[key]);
      } else {
        waiting.emplace_back(key, client);
      }
      data.erase(0, 9 + key_size + value_size);
    }
  }

  static void send(Client* client, const std::string& value) {
    auto* answer = new Answer;
    uint32_t size = static_cast<uint32_t>(value.size());
    answer->data.assign(reinterpret_cast<char*>(&size), 4);
    answer->data += value;
    answer->request.data = answer;
    uv_buf_t buffer = uv_buf_init(answer->data.data(), static_cast<unsigned>(answer->data.size()));
    uv_write(&answer->request, reinterpret_cast<uv_stream_t*>(&client->stream), &buffer, 1,
             [](uv_write_t* done, int) { delete static_cast<Answer*>(done->data); });
  }
};

static LibUVStoreDaemon* only = nullptr;
void* LibUVStoreDaemon::daemon_of(uv_loop_t*) { return only; }

}  // namespace c10d::detail

extern "C" int torch_store_start(int port) {
  using c10d::detail::LibUVStoreDaemon;
  auto* daemon = new LibUVStoreDaemon;
  if (!daemon->listen(port)) return -1;
  c10d::detail::only = daemon;
  std::thread([daemon] { daemon->run(); }).detach();
  return daemon->port;
}
extern "C" const char* torch_libuv_version() { return uv_version_string(); }
#else
extern "C" int torch_store_start(int) { return -2; }
extern "C" const char* torch_libuv_version() { return ""; }
#endif
