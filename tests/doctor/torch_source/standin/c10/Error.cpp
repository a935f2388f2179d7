namespace c10 {
[[noreturn]] void fail(const char* what) { throw what; }
}  // namespace c10
