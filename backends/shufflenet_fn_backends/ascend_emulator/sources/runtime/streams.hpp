#ifndef SHUFFLENET_FN_EMULATOR_RUNTIME_STREAMS_HPP_
#define SHUFFLENET_FN_EMULATOR_RUNTIME_STREAMS_HPP_

#include <acl/acl.h>

namespace emulator {

// True for open streams and for nullptr, the default stream.
bool is_stream(aclrtStream stream);

}  // namespace emulator

#endif  // SHUFFLENET_FN_EMULATOR_RUNTIME_STREAMS_HPP_
