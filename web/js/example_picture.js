// Shows the picture that Example Picture names, before any run, as Load Image does.
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

app.registerExtension({
  name: "newton_constrained_sampling.example_picture",
  nodeCreated(node) {
    if (node.comfyClass !== "NewtonExamplePicture") return
    const widget = node.widgets.find((w) => w.name === "image")
    let latest
    const show = () => {
      const picture = (latest = new Image())
      picture.onload = () => {
        if (picture !== latest) return // of the value before, on a busy server
        node.imgs = [picture]
        app.graph?.setDirtyCanvas(true)
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
