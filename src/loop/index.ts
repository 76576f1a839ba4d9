export { type KernelLoop, kernelLoopsOver, listKernelLoops } from "../io/index.js";
export {
  type AttachedKernelLoop,
  attachArguments,
  attachKernelLoop,
  detachKernelLoop,
  type KernelLoopRequest,
  resizeKernelLoop,
} from "./kernel-loop.js";
export {
  type LoopBacking,
  type LoopRequest,
  loopSizeBytes,
  loopWarnings,
  openLoop,
  takeUpLoop,
} from "./loop-device.js";
export {
  deviceNumberOf,
  type MachineDevice,
  type MachineOptions,
  machineBlockDevices,
  resolveDeviceNumber,
} from "./machine.js";
export { type DeviceDetails, machineDetails } from "./machine-details.js";
