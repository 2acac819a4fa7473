# Decides whether CUDA kernels and emulated kernels are built, and says why.
#
# Out: FK_CUDA, FK_CUDA_REASON, FK_CUDA_ARCHS, FK_NVCC_OPTIONS,
#      FK_EMULATION, FK_EMULATION_REASON, FK_CUDA_INCLUDE

set(FK_RELEASE_ARCHS 75 80 86 89 90 100 120)

foreach(option FACEKERNELS_CUDA FACEKERNELS_EMULATION)
  if(NOT ${option})
    if("${${option}}" STREQUAL "")
      set(${option} AUTO)
    endif()
  endif()
  string(TOUPPER "${${option}}" ${option})
  if(NOT ${option} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "${option} must be AUTO, ON or OFF, got ${${option}}")
  endif()
endforeach()

# NVIDIA's wheels (nvidia-cuda-nvcc, nvidia-cuda-runtime) put the toolkit into the environment.
file(GLOB FK_WHEEL_TOOLKITS "${Python_SITELIB}/nvidia/cu[0-9]*" "${Python_SITELIB}/nvidia/cuda_*")
set(FK_TOOLKIT_HINTS $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda ${FK_WHEEL_TOOLKITS})

# ---- nvcc
set(FK_CUDA OFF)
set(FK_CUDA_ARCHS "")
if(FACEKERNELS_CUDA STREQUAL "OFF")
  set(FK_CUDA_REASON "FACEKERNELS_CUDA=OFF")
else()
  if(DEFINED ENV{CUDACXX} AND EXISTS "$ENV{CUDACXX}")
    set(FK_NVCC "$ENV{CUDACXX}")
  else()
    find_program(FK_NVCC nvcc HINTS ${FK_TOOLKIT_HINTS} PATH_SUFFIXES bin)
  endif()
  if(FK_NVCC)
    # The real path: a link elsewhere would hide the toolkit's headers and libraries.
    get_filename_component(CMAKE_CUDA_COMPILER "${FK_NVCC}" REALPATH)
    if(FACEKERNELS_CUDA_ARCHS)
      set(FK_ARCH_LIST ${FACEKERNELS_CUDA_ARCHS})
    else()
      set(FK_ARCH_LIST ${FK_RELEASE_ARCHS})
    endif()
    # Machine code for every architecture, PTX of the newest for GPUs to come.
    list(SORT FK_ARCH_LIST COMPARE NATURAL)
    list(GET FK_ARCH_LIST -1 FK_NEWEST)
    set(CMAKE_CUDA_ARCHITECTURES "")
    foreach(arch IN LISTS FK_ARCH_LIST)
      if(arch STREQUAL FK_NEWEST)
        list(APPEND CMAKE_CUDA_ARCHITECTURES ${arch})
      else()
        list(APPEND CMAKE_CUDA_ARCHITECTURES ${arch}-real)
      endif()
    endforeach()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(FK_CUDA ON)
    set(FK_CUDA_REASON "nvcc ${CMAKE_CUDA_COMPILER_VERSION} at ${CMAKE_CUDA_COMPILER}")
    list(JOIN FK_ARCH_LIST " " FK_CUDA_ARCHS)
    set(FK_NVCC_OPTIONS -lineinfo --threads=2 -Xfatbin=-compress-all -Werror=all-warnings
        -Xptxas=-warn-spills,-warn-lmem-usage,-Werror)
  elseif(FACEKERNELS_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FACEKERNELS_CUDA=ON, but nvcc was not found: set CUDACXX or CUDA_HOME, "
                        "put nvcc on PATH, or install nvidia-cuda-nvcc into this environment")
  else()
    set(FK_CUDA_REASON "nvcc was not found")
  endif()
endif()

# ---- emulation: needs the toolkit's headers, not nvcc
set(FK_EMULATION OFF)
if(FACEKERNELS_EMULATION STREQUAL "OFF")
  set(FK_EMULATION_REASON "FACEKERNELS_EMULATION=OFF")
else()
  find_program(FK_ANY_NVCC nvcc)
  if(FK_ANY_NVCC)
    get_filename_component(FK_ANY_NVCC "${FK_ANY_NVCC}" REALPATH)
    get_filename_component(FK_ANY_TOOLKIT "${FK_ANY_NVCC}/../.." REALPATH)
  endif()
  find_path(FK_CUDA_INCLUDE cuda_fp16.h
            HINTS ${CUDAToolkit_INCLUDE_DIRS} ${FK_TOOLKIT_HINTS} ${FK_ANY_TOOLKIT}
            PATH_SUFFIXES include targets/x86_64-linux/include)
  if(FK_CUDA_INCLUDE)
    set(FK_EMULATION ON)
    set(FK_EMULATION_REASON "CUDA headers in ${FK_CUDA_INCLUDE}")
  elseif(FACEKERNELS_EMULATION STREQUAL "ON")
    message(FATAL_ERROR "FACEKERNELS_EMULATION=ON, but cuda_fp16.h was not found: set CUDA_HOME")
  else()
    set(FK_EMULATION_REASON "cuda_fp16.h was not found")
  endif()
endif()
