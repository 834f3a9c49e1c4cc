// Hides widgets that have no effect as the node is set: what an input's `dead_if` says in the node's schema, such as
// { preset: ["fast"] }. Values stay as they are. A widget that something is connected to stays visible.
import { app } from "../../../scripts/app.js"

const slotOf = (node, name) => node.inputs?.find((i) => i.name === name || i.widget?.name === name)
const isConnected = (node, name) => slotOf(node, name)?.link != null

// null: a socket to which nothing is connected; undefined: not known before the graph runs.
function valueOf(node, name) {
  if (isConnected(node, name)) return undefined
  return node.widgets.find((w) => w.name === name)?.value ?? null
}

function rulesOf(node) {
  const groups = node.constructor.nodeData?.input ?? {}
  const specs = Object.entries({ ...groups.required, ...groups.optional })
  return specs.flatMap(([name, spec]) => (spec[1]?.dead_if ? [[name, spec[1].dead_if]] : []))
}

// Returns whether anything has changed.
function update(node, rules) {
  let changed = false
  for (const [name, deadIf] of rules) {
    const widget = node.widgets.find((w) => w.name === name)
    const dead = Object.entries(deadIf).some(([other, values]) => values.includes(valueOf(node, other)))
    const hidden = dead && !isConnected(node, name)
    if (!widget || !!widget.hidden === hidden) continue
    widget.hidden = hidden
    if (widget.options) widget.options.hidden = hidden // where the editor draws nodes as HTML
    if (hidden) widget.computeSize = () => [0, -4] // older editors leave room for it: this much and a gap of 4
    else delete widget.computeSize
    changed = true
  }
  return changed
}

function chain(object, method, after) {
  const before = object[method]
  object[method] = function (...args) {
    const result = before?.apply(this, args)
    after(...args)
    return result
  }
}

app.registerExtension({
  name: "newton_constrained_sampling.live_widgets",
  nodeCreated(node) {
    const rules = rulesOf(node)
    if (!rules.length) return
    const fit = () => {
      if (update(node, rules)) node.setSize([node.size[0], node.computeSize()[1]])
      app.graph?.setDirtyCanvas(true, true)
    }
    const controls = new Set(rules.flatMap(([, deadIf]) => Object.keys(deadIf)))
    for (const widget of node.widgets) if (controls.has(widget.name)) chain(widget, "callback", fit)
    chain(node, "onConnectionsChange", fit)
    // A loaded node keeps its size, which older editors enlarge while all widgets are there.
    chain(node, "onConfigure", (saved) => {
      update(node, rules)
      if (saved?.size) node.setSize([saved.size[0], saved.size[1]]) // a list, or an object of indices
    })
    fit()
  },
})
