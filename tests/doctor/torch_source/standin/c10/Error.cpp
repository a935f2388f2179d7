#include <stdexcept>
#include <string>

namespace c10 {
void fail(const std::string& what) { throw std::runtime_error(what); }
}  // namespace c10
