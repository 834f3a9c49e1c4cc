// Shows the picture that Example Picture names, before any run, as Load Image does.
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

// Shows a picture that has loaded; where the editor draws nodes as HTML, it takes no notice of `node.imgs`.
function showIn(node) {
  if (!globalThis.LiteGraph?.vueNodesMode)
    return (picture) => {
      node.imgs = [picture]
      app.graph?.setDirtyCanvas(true)
    }
  const frame = document.createElement("img")
  frame.style.objectFit = "contain"
  node.addDOMWidget("picture", "picture", frame, { serialize: false }).serialize = false
  return (picture) => (frame.src = picture.src)
}

app.registerExtension({
  name: "newton_constrained_sampling.example_picture",
  nodeCreated(node) {
    if (node.comfyClass !== "NewtonExamplePicture") return
    const widget = node.widgets.find((w) => w.name === "image")
    const display = showIn(node)
    let latest
    const show = () => {
      const picture = (latest = new Image())
      picture.onload = () => {
        if (picture === latest) display(picture) // else of the value before, on a busy server
      }
      picture.src = api.fileURL(`/newton_constrained_sampling/pictures/${widget.value}`)
    }
    const { callback } = widget
    const { onConfigure } = node
    widget.callback = function (...args) {
      callback?.apply(this, args)
      show()
    }
    node.onConfigure = function (...args) {
      onConfigure?.apply(this, args)
      show()
    }
    show()
  },
})
