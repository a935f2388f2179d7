# What setup.py did before: variables of these names become CMake's.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import os
for k, v in os.environ.items():
    if k.startswith(('BUILD_', 'USE_', 'CMAKE_')) or k == 'TORCH_CUDA_ARCH_LIST':
        print(f'set({k} [==[{v}]==] CACHE STRING \"\" FORCE)')"
  OUTPUT_VARIABLE forwarded COMMAND_ERROR_IS_FATAL ANY)
cmake_language(EVAL CODE "${forwarded}")
