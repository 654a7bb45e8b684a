#ifndef ASCEND_EMULATOR_RUNTIME_STREAMS_HPP_
#define ASCEND_EMULATOR_RUNTIME_STREAMS_HPP_

#include <acl/acl.h>

namespace emulator {

// True for open streams and for nullptr, the default stream.
bool is_stream(aclrtStream stream);

}  // namespace emulator

#endif  // ASCEND_EMULATOR_RUNTIME_STREAMS_HPP_
