// The regions as a layer of the map: tiles of region ids, whose colours are in a table. New colours
// are one small texture, however many regions there are; tiles are loaded once.
//
// Ids of the window are drawn into a texture of its size when the view changes. From it follow the
// colours and, where neighbours differ, the outlines.

import { send } from "./api.js";
import { tell } from "./dom.js";
import { side, toPixel, toWorld } from "./grid.js";
import { state } from "./store.js";

const SIZE = 256; // pixels of a tile along each side
const MOST = 256; // tiles that are kept beside those in the window
const AGAIN = 5000; // milliseconds until a tile that failed is asked for again
const THINNEST = 9; // pixels of the window: outlines of smaller regions would hide the scene

/** Width of the table of colours, a power of 2. */
export const WIDE = 1024;

const VERTICES = `#version 300 es
uniform vec4 box; // left, top, right, bottom: -1 to 1
out vec2 at;
void main() {
  at = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4(mix(box.xy, box.zw, at), 0, 1);
}`;

const IDS = `#version 300 es
precision highp float;
uniform highp usampler2D ids;
in vec2 at;
out uint id;
void main() { id = texelFetch(ids, min(ivec2(at * ${SIZE}.0), ${SIZE - 1}), 0).r; }`;

const COLORS = `#version 300 es
precision highp float;
uniform highp usampler2D ids;
uniform sampler2D colors;
uniform uint hover;
uniform float opacity;
uniform int line, swipe; // width of outlines; first column that is coloured
out vec4 color; // times its alpha
uint id(ivec2 at) { return texelFetch(ids, clamp(at, ivec2(0), textureSize(ids, 0) - 1), 0).r; }
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy), next = ivec2((line + 1) / 2, 0), last = ivec2(line / 2, 0);
  uint here = texelFetch(ids, at, 0).r;
  color = texelFetch(colors, ivec2(here & ${WIDE - 1}u, here >> ${Math.log2(WIDE)}), 0);
  if (here != 0u && here == hover)
    color = color.a > 0.0 ? vec4((color.rgb + 2.0) / 3.0, 1) : vec4(1, 1, 1, 0.44);
  color.a *= at.x < swipe ? 0.0 : opacity;
  color.rgb *= color.a;
  if (line == 0) return;
  uvec4 near = uvec4(id(at + next), id(at - next.yx), id(at - last), id(at + last.yx));
  if (any(notEqual(near, uvec4(here)))) color = mix(color, vec4(1, 0.88, 0.3, 1), 0.8);
}`;

/** A custom layer of MapLibre. */
export class RegionLayer {
  id = "regions";
  type = "custom";
  swipe = 0; // share of the window's width that shows the image only
  #tiles = new Map(); // path -> {z, x, y, ids, texture}, the longest unused first
  #colors = new Uint32Array(WIDE);
  #hover = 0;
  #arrived = 0; // grows with each tile
  #drawn = ""; // the view whose ids are drawn
  #zoom = 0; // of the tiles in the window

  onAdd(map, gl) {
    this.map = map;
    this.#drawn = "";
    for (const tile of this.#tiles.values()) tile.texture = null; // of a context that was lost
    this.vertices = gl.createVertexArray();
    this.programs = [IDS, COLORS].map((shader) => program(gl, shader));
    this.frame = gl.createFramebuffer();
    [this.ids, this.colors] = [texture(gl), texture(gl)];
    this.fresh = true;
  }

  /** Show colours (0xAABBGGRR) by id, in rows of `WIDE`: those of regions begin at 1. */
  paint(colors) {
    this.#colors = colors;
    this.fresh = true;
    this.map?.triggerRepaint();
  }

  /** Brighten the region under the pointer; null for none. */
  point(region) {
    const id = region === null ? 0 : region + 1;
    if (id === this.#hover) return;
    this.#hover = id;
    this.map.triggerRepaint();
  }

  /** The region at a place of the window, of the tiles that are shown there; null for none. */
  regionAt(point) {
    if (!this.map) return null;
    const [column, row] = toPixel(this.map.unproject(point));
    const loaded = [...this.#tiles.values()].filter(({ ids }) => ids).sort(this.#order).reverse();
    for (const { z, x, y, ids } of loaded) {
      const scale = (SIZE * 2 ** z) / side();
      const [left, top] = [Math.floor(column * scale) - SIZE * x, Math.floor(row * scale) - SIZE * y];
      const id = ids[top * SIZE + left];
      if (Math.min(left, top) >= 0 && Math.max(left, top) < SIZE) return id ? id - 1 : null;
    }
    return null;
  }

  // Tiles of the window's zoom lie on finer ones, and those on coarser ones.
  #order = (one, other) => (one.z === this.#zoom) - (other.z === this.#zoom) || one.z - other.z;

  /** Where the scene is in the window, in pixels of the screen: [left, top, those of one of the scene]. */
  #view(gl) {
    const [first, end] = [[0, 0], [side(), side()]].map((corner) => this.map.project(toWorld(corner)));
    this.ratio = gl.drawingBufferWidth / this.map.getCanvas().clientWidth;
    return [first.x, first.y, (end.x - first.x) / side()].map((value) => value * this.ratio);
  }

  /** Draw the ids of the window. */
  prerender(gl) {
    const [width, height] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
    const view = this.#view(gl);
    const key = [...view, width, height, this.#arrived, state.regions.state].join();
    if (key === this.#drawn) return;
    this.#drawn = key;
    this.view = view;
    const wanted = this.#wanted(view, width, height);
    const missing = wanted.filter(({ ids }) => !ids);
    document.body.dataset.regions = !wanted.length ? "none" : missing.length ? "loading" : "drawn";
    texture(gl, this.ids);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32UI, width, height, 0, gl.RED_INTEGER, gl.UNSIGNED_INT, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.ids, 0);
    gl.viewport(0, 0, width, height);
    for (const test of [gl.DEPTH_TEST, gl.STENCIL_TEST, gl.BLEND, gl.CULL_FACE]) gl.disable(test);
    gl.clearBufferuiv(gl.COLOR, 0, [0, 0, 0, 0]);
    const place = this.#use(gl, 0)("box");
    const shown = missing.length ? [...this.#tiles.values()].filter(({ ids }) => ids).sort(this.#order) : wanted;
    for (const tile of shown) {
      const long = (side() / 2 ** tile.z) * view[2];
      const [left, top] = [view[0] + tile.x * long, view[1] + tile.y * long];
      gl.uniform4f(place, ...box(gl, left, top, left + long, top + long));
      if (tile.texture) gl.bindTexture(gl.TEXTURE_2D, tile.texture);
      else {
        tile.texture = texture(gl);
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32UI, SIZE, SIZE, 0, gl.RED_INTEGER, gl.UNSIGNED_INT, tile.ids);
      }
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
    this.#forget(gl, new Set(wanted));
  }

  /** Colour them. */
  render(gl) {
    const { width, height } = state.scene, [left, top, scale] = this.view;
    const mean = Math.sqrt((width * height) / Math.max(state.regions.count, 1));
    const outlined = state.outlines && (scale / this.ratio) * mean >= THINNEST;
    gl.disable(gl.DEPTH_TEST);
    const named = this.#use(gl, 1);
    const edge = Math.ceil(this.ratio); // for outlines
    gl.uniform4f(named("box"), ...box(gl, left - edge, top - edge, left + width * scale + edge, top + height * scale + edge));
    gl.uniform1i(named("colors"), 1);
    gl.uniform1ui(named("hover"), this.#hover);
    gl.uniform1f(named("opacity"), state.opacity);
    gl.uniform1i(named("line"), outlined ? Math.max(Math.round(this.ratio), 1) : 0);
    gl.uniform1i(named("swipe"), Math.round(this.swipe * gl.drawingBufferWidth));
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.colors);
    if (this.fresh) {
      const bytes = new Uint8Array(this.#colors.buffer);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, WIDE, this.#colors.length / WIDE, 0, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    }
    this.fresh = false;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.ids);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  #use(gl, number) {
    gl.useProgram(this.programs[number]);
    gl.bindVertexArray(this.vertices);
    gl.activeTexture(gl.TEXTURE0);
    return (name) => gl.getUniformLocation(this.programs[number], name);
  }

  /** The tiles of the window at its zoom; those that are not there are asked for. */
  #wanted([left, top, scale], width, height) {
    const { zmax } = state.scene;
    const z = (this.#zoom = Math.min(Math.max(zmax + Math.round(Math.log2(scale)), 0), zmax));
    const long = side() / 2 ** z; // pixels of the scene
    const range = (begin, pixels, most) => [
      Math.max(Math.floor(-begin / scale / long), 0),
      Math.min(Math.ceil((pixels - begin) / scale / long), Math.ceil(most / long)),
    ];
    const [[x0, x1], [y0, y1]] = [range(left, width, state.scene.width), range(top, height, state.scene.height)];
    const found = [];
    if (state.regions.state !== "ready") return found;
    for (let y = y0; y < y1; y++)
      for (let x = x0; x < x1; x++) {
        const path = `/api/tiles/regions/${z}/${x}/${y}.ids`;
        const tile = this.#tiles.get(path) ?? this.#load(path, { z, x, y });
        this.#tiles.delete(path);
        this.#tiles.set(path, tile);
        found.push(tile);
      }
    return found;
  }

  #load(path, tile) {
    tile.asked = new AbortController();
    send(path, { signal: tile.asked.signal })
      .then(async (answer) => {
        tile.ids = answer.status === 204 ? new Uint32Array(SIZE * SIZE) : new Uint32Array(await answer.arrayBuffer());
        this.#arrived += 1;
      })
      .catch(async (error) => {
        if (tile.asked.signal.aborted) return;
        tell(error);
        await new Promise((resolve) => setTimeout(resolve, AGAIN));
        if (tile.asked.signal.aborted) return;
        this.#tiles.delete(path);
        this.#arrived += 1; // draws, and asks again
      })
      .finally(() => this.map.triggerRepaint());
    return tile;
  }

  /** Drop tiles that are not in the window: those not there yet, and the oldest of too many. */
  #forget(gl, wanted) {
    const others = [...this.#tiles].filter(([, tile]) => !wanted.has(tile));
    const old = others.length - MOST;
    others.forEach(([path, tile], k) => {
      if (tile.ids && k >= old) return;
      tile.asked.abort();
      gl.deleteTexture(tile.texture ?? null);
      this.#tiles.delete(path);
    });
  }
}

/** A part of the screen, of whose pixels the first is at the top left, in coordinates of WebGL. */
const box = ({ drawingBufferWidth: width, drawingBufferHeight: height }, left, top, right, bottom) =>
  [(2 * left) / width - 1, 1 - (2 * top) / height, (2 * right) / width - 1, 1 - (2 * bottom) / height];

/** Bind a texture, without smoothing, for values to be sent; a new one if none is given. */
function texture(gl, old = null) {
  const made = old ?? gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  return made;
}

function program(gl, fragments) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTICES], [gl.FRAGMENT_SHADER, fragments]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost())
    throw new Error(`WebGL: ${gl.getProgramInfoLog(made)}`);
  return made;
}
