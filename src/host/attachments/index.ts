export { attachmentKind } from "./attachment.js";
export { type AttachmentsExamination, examineAttachments } from "./examine.js";
export { imageFolder } from "./image-folder.js";
export {
  clearLeftovers,
  danglingLinks,
  describeUser,
  findLeftovers,
  type LeftNode,
  type Leftover,
  type NodeUser,
  usersOfNode,
} from "./leftovers.js";
export {
  type AttachmentFolders,
  attachDevice,
  detachDevice,
  findAttachment,
  listAttachments,
  mountDevice,
  mountWords,
  planAttach,
  planUmount,
  type UmountPlan,
  umountDevice,
} from "./operations.js";
export type { AttachmentInfo, AttachRequest, Via } from "./request.js";
