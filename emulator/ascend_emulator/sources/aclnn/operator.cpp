// Checking, launching and counting, the same for all operators.

#include "operator.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <sstream>
#include <stdexcept>

namespace emulator::aclnn {
namespace {

struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Traffic {
  uint64_t read = 0;
  uint64_t written = 0;
};

// Of the launch that runs on this thread, so that reads() and writes() need no argument.
thread_local Traffic traffic;

// ATen's advice on how it is called here is not for the user.
class Silent : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

// Whatever the calling thread is in the middle of (autograd, functorch transforms, autocast,
// dispatch modes, the profiler) is torch's affair above the operator; below it ATen only computes.
class BareDispatch {
 public:
  BareDispatch()
      : keys_(c10::DispatchKeySet(c10::DispatchKey::BackendSelect),
              c10::default_excluded_set | c10::autograd_dispatch_keyset_with_ADInplaceOrView) {}

 private:
  c10::InferenceMode no_inference_{false};
  c10::AutoGradMode no_grad_{false};
  at::DisableRecordFunctionGuard no_profiling_;
  c10::impl::ForceDispatchKeyGuard keys_;
  Silent silent_;
  c10::WarningUtils::WarningHandlerGuard no_warnings_{&silent_};
};

// "self" for the first of "In self, In other, Value alpha, Out out".
std::string argument_name(const Operator& op, int position) {
  std::stringstream arguments(op.arguments);
  std::string argument;
  for (int i = 0; i <= position; ++i) {
    std::getline(arguments, argument, ',');
  }
  return argument.substr(argument.find_last_of(' ') + 1);
}

std::string shape_text(at::IntArrayRef shape) {
  std::ostringstream text;
  text << shape;
  return text.str();
}

// The elements in memory, each counted once: an expanded dimension reads one, and a view with
// overlapping rows no more than it spans.
uint64_t distinct_bytes(const at::Tensor& tensor) {
  if (tensor.numel() == 0) {
    return 0;
  }
  int64_t elements = 1;
  int64_t span = 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    elements *= tensor.stride(d) == 0 ? 1 : tensor.size(d);
    span += (tensor.size(d) - 1) * tensor.stride(d);
  }
  return static_cast<uint64_t>(std::min(elements, span)) * tensor.element_size();
}

// From the first to the last element, without the gaps taken out.
uint64_t spanned_bytes(const at::Tensor& tensor) {
  int64_t span = 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    span += (tensor.size(d) - 1) * tensor.stride(d);
  }
  return static_cast<uint64_t>(span) * tensor.element_size();
}

int check_dtype(const Operator& op, const Operand& operand) {
  const c10::ScalarType dtype = operand.tensor->value.scalar_type();
  const Types types{operand.types};
  if (takes(types, dtype)) {
    return kSuccess;
  }
  const std::string allowed = taken(types);
  if (allowed.empty()) {
    return fail(kInvalid, std::string(op.name) + ": " + soc_name() + " has no such operator");
  }
  return fail(kInvalid, std::string(op.name) + ": tensor " + argument_name(op, operand.position) +
                            " is not implemented for " + name_of(dtype) + " on " + soc_name() +
                            ", should be in dtype support list [" + allowed + "]");
}

int check_memory(const Operator& op, const Operand& operand) {
  const at::Tensor& tensor = operand.tensor->value;
  if (tensor.numel() == 0) {
    return kSuccess;
  }
  const std::string who = std::string(op.name) + ": tensor " + argument_name(op, operand.position);
  const void* data = tensor.const_data_ptr();
  const int32_t device = owner(data);
  if (device < 0) {
    return fail(kInvalid, who + " is in host memory, which a chip cannot read");
  }
  if (device != current_device()) {
    return fail(kInvalid, who + " is on device " + std::to_string(device) +
                              ", and the operator on " + std::to_string(current_device()));
  }
  if (!within_allocation(data, spanned_bytes(tensor))) {
    return fail(kInvalid, who + " with shape " + shape_text(tensor.sizes()) + " and strides " +
                              shape_text(tensor.strides()) + " reaches outside its allocation");
  }
  return kSuccess;
}

bool writes_to(const Operand& operand) { return operand.use != Use::kRead; }

// Outputs written by ATen's own out= are resized by it where they do not fit, which no chip does.
void check_shapes(const aclOpExecutor& executor) {
  for (const Operand& operand : executor.operands) {
    const aclTensor& tensor = *operand.tensor;
    if (writes_to(operand) && tensor.value.sizes() != at::IntArrayRef(tensor.shape)) {
      refuse("the result has shape " + shape_text(tensor.value.sizes()) + ", and " +
             argument_name(*executor.op, operand.position) + " has " + shape_text(tensor.shape));
    }
  }
}

bool inputs_finite(const aclOpExecutor& executor) {
  return std::all_of(executor.operands.begin(), executor.operands.end(), [](const Operand& o) {
    const at::Tensor& value = o.tensor->value;
    return o.use == Use::kWritten || !at::isFloatingType(value.scalar_type()) ||
           at::isfinite(value).all().item<bool>();
  });
}

// What a chip in saturation mode does to a float16 result: it clamps infinities to the largest
// finite value, makes NaN zero, and raises the overflow flag where the inputs were finite.
void saturate(const aclOpExecutor& executor, bool finite_before) {
  constexpr double kLargest = 65504.0;
  for (const Operand& operand : executor.operands) {
    at::Tensor& value = operand.tensor->value;
    if (!writes_to(operand) || value.scalar_type() != c10::kHalf ||
        at::isfinite(value).all().item<bool>()) {
      continue;
    }
    value.copy_(at::nan_to_num(value, 0.0, kLargest, -kLargest));
    if (finite_before) {
      flag_overflow();
    }
  }
}

// The injected overflow: the flag where chips have one, an infinity in the result where they do
// not.
void overflow(const aclOpExecutor& executor) {
  if (saturates()) {
    flag_overflow();
    return;
  }
  for (const Operand& operand : executor.operands) {
    at::Tensor& value = operand.tensor->value;
    if (writes_to(operand) && at::isFloatingType(value.scalar_type()) && value.numel() > 0) {
      value.as_strided({1}, {1}).fill_(std::numeric_limits<double>::infinity());
      return;
    }
  }
}

// Nothing is launched for outputs without elements, on a chip either.
void count(const aclOpExecutor& executor) {
  bool launched = false;
  for (const Operand& operand : executor.operands) {
    const uint64_t bytes = distinct_bytes(operand.tensor->value);
    launched = launched || (writes_to(operand) && bytes > 0);
    if (operand.use == Use::kRead || operand.use == Use::kUpdated) {
      traffic.read += bytes;
    }
    if (operand.use == Use::kWritten || operand.use == Use::kUpdated) {
      traffic.written += bytes;
    }
  }
  if (launched) {
    kernel(executor.op->name, traffic.read, traffic.written, executor.signature);
  }
}

}  // namespace

const Out& Out::operator=(const at::Tensor& result) const {
  if (result.sizes() != at::IntArrayRef(handle->shape)) {
    refuse("the result has shape " + shape_text(result.sizes()) + ", and the output " +
           shape_text(handle->shape));
  }
  handle->value.copy_(result);
  return *this;
}

void refuse(const std::string& why) { throw Refused(why); }

void reads(const at::Tensor& like) { traffic.read += distinct_bytes(like); }

void writes(const at::Tensor& like) { traffic.written += distinct_bytes(like); }

std::string signature(const std::vector<Operand>& operands, const std::string& numbers) {
  constexpr char kUses[] = {'r', 'w', 'u', 'p'};
  std::string text;
  for (const Operand& operand : operands) {
    const at::Tensor& value = operand.tensor->value;
    text += (text.empty() ? "" : ";") + std::to_string(operand.position);
    text += kUses[static_cast<int>(operand.use)];
    text += std::string(" ") + c10::toString(value.scalar_type()) + " ";
    for (int64_t d = 0; d < value.dim(); ++d) {
      text += (d == 0 ? "" : ",") + std::to_string(value.size(d));
    }
    text += value.is_contiguous() ? " c" : " v";
  }
  return text + numbers;
}

int check(const Operator& op, const std::vector<Operand>& operands) {
  for (const Operand& operand : operands) {
    if (const int code = check_dtype(op, operand)) {
      return code;
    }
    if (const int code = check_memory(op, operand)) {
      return code;
    }
  }
  return kSuccess;
}

int check_handle(const Operator& op, int position, const Kind* kind, Kind expected, bool optional) {
  if (kind == nullptr) {
    return optional ? kSuccess
                    : fail(kNullPointer, std::string(op.name) + ": " + argument_name(op, position) +
                                             " is a null pointer");
  }
  if (*kind != expected) {
    return fail(kInvalid, std::string(op.name) + ": what is passed as argument " +
                              argument_name(op, position) +
                              " is of another kind; its ACLNN() statement does not fit the caller");
  }
  return kSuccess;
}

int launch(const char* name, aclOpExecutor* raw) {
  if (raw == nullptr) {
    return fail(kNullPointer, std::string(name) + ": the executor is a null pointer");
  }
  const std::unique_ptr<aclOpExecutor> executor(raw);
  if (fault("op", name)) {
    return fail(kInner, std::string(name) + ": failed, as ASCEND_EMULATOR_FAULTS asks");
  }
  try {
    const BareDispatch bare;
    traffic = {};
    const bool saturating = saturates();
    const bool finite_before = saturating && inputs_finite(*executor);
    executor->compute();
    check_shapes(*executor);
    if (saturating) {
      saturate(*executor, finite_before);
    }
    if (fault("overflow", name)) {
      overflow(*executor);
    }
    count(*executor);
    return kSuccess;
  } catch (const c10::Error& error) {
    return fail(kInvalid, std::string(name) + ": " + error.what_without_backtrace());
  } catch (const Refused& error) {
    return fail(kInvalid, std::string(name) + ": " + error.what());
  } catch (const std::exception& error) {
    return fail(kInner, std::string(name) + ": " + error.what());
  }
}

}  // namespace emulator::aclnn
