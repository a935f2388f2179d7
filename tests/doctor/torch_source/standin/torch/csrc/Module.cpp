#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern "C" int torch_store_start(int port);
extern "C" const char* torch_libuv_version();

static PyObject* store_start(PyObject*, PyObject* args) {
  int port;
  if (!PyArg_ParseTuple(args, "i", &port)) return nullptr;
  return PyLong_FromLong(torch_store_start(port));
}

static PyObject* libuv_version(PyObject*, PyObject*) {
  return PyUnicode_FromString(torch_libuv_version());
}

static PyMethodDef methods[] = {{"store_start", store_start, METH_VARARGS, nullptr},
                                {"libuv_version", libuv_version, METH_NOARGS, nullptr},
                                {nullptr, nullptr, 0, nullptr}};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "torch._C", nullptr, -1, methods,
                                 nullptr, nullptr, nullptr, nullptr};

extern "C" __attribute__((visibility("default"))) PyObject* initModule() {
  return PyModule_Create(&definition);
}
