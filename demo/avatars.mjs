// Draws DIR/avatars.jsonl to DIR/avatars.bin, 128 x 128 RGB pictures one after the other. With `alpha` behind DIR, draws
// the opacity of held-out pictures alone, a byte a pixel, to DIR/alpha.bin.
// npm install @dicebear/core@9.4 @dicebear/collection@9.4 @resvg/resvg-js; node demo/avatars.mjs DIR [alpha]
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const SIZE = 128;
const folder = process.argv[2];
const alpha = process.argv[3] === 'alpha';
const require = createRequire(pathToFileURL(path.resolve('package.json')));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { createAvatar } = await load('@dicebear/core');
const styles = await load('@dicebear/collection');
const { Resvg } = await load('@resvg/resvg-js');

const maybe = (name, value) => ({ [name]: value ? [value] : undefined, [`${name}Probability`]: value ? 100 : 0 });
const options = {
  toon: (a) => ['toonHead', { hair: [a.hair], ...maybe('rearHair', a.back), clothes: [a.clothes], mouth: [a.mouth],
    eyes: [a.eyes], eyebrows: [a.eyebrows], ...maybe('beard', a.beard), clothesColor: [a.clothesHex] }],
  persona: (a) => ['personas', { hair: [a.hair], body: [a.clothes], mouth: [a.mouth], eyes: [a.glasses || a.eyes],
    nose: [a.nose], ...maybe('facialHair', a.beard), clothingColor: [a.clothesHex] }],
  micah: (a) => ['micah', { hair: [a.hair], shirt: [a.clothes], mouth: [a.mouth], eyes: [a.eyes], nose: [a.nose],
    eyebrows: [a.eyebrows], ...maybe('facialHair', a.beard), ...maybe('glasses', a.glasses), earringsProbability: 0,
    baseColor: [a.skinHex], shirtColor: [a.clothesHex], glassesColor: ['333333'], facialHairColor: [a.hairHex] }],
  bigsmile: (a) => ['bigSmile', { hair: [a.hair], mouth: [a.mouth], eyes: [a.eyes],
    ...maybe('accessories', a.glasses) }],
};

const patterns = {
  '': () => '',
  stripes: (c) => Array.from({ length: 8 }, (_, i) =>
    `<path d="M${i * 32 - 128} 128 l128 -128 h16 l-128 128z" fill="#${c}"/>`).join(''),
  dots: (c) => Array.from({ length: 64 }, (_, i) =>
    `<circle cx="${8 + 16 * (i % 8)}" cy="${8 + 16 * Math.floor(i / 8)}" r="4" fill="#${c}"/>`).join(''),
  checks: (c) => Array.from({ length: 32 }, (_, i) =>
    `<rect x="${32 * (i % 4) + 16 * (Math.floor(i / 4) % 2)}" y="${16 * Math.floor(i / 4)}" width="16" height="16" fill="#${c}"/>`).join(''),
};

function figure(a) {
  if (a.style === 'empty') return '';
  const [style, chosen] = options[a.style](a);
  return createAvatar(styles[style], { seed: String(a.number), size: SIZE, hairColor: [a.hairHex],
    skinColor: [a.skinHex], ...chosen }).toString();
}

// Turbulence; the curves make colours of its values.
const scenery = (number, { frequencies, octaves, curves }) =>
  `<filter id="s" x="0" y="0" width="1" height="1" color-interpolation-filters="sRGB"><feTurbulence type="fractalNoise" seed="${number}"`
  + ` baseFrequency="${frequencies.join(' ')}" numOctaves="${octaves}"/>`
  + '<feColorMatrix values="2.5 0 0 0 -.75 2 .5 0 0 -.75 2 0 .5 0 -.75 0 0 0 0 1"/><feComponentTransfer>'
  + curves.map((c, i) => `<feFunc${'RGB'[i]} type="table" tableValues="${c.join(' ')}"/>`).join('')
  + `</feComponentTransfer></filter><rect width="${SIZE}" height="${SIZE}" filter="url(#s)"/>`;

function draw(a) {
  const avatar = figure(a);
  const ground = a.scenery ? scenery(a.number, a.scenery) : patterns[a.pattern](a.paper[1]);
  const paper = `<rect width="${SIZE}" height="${SIZE}" fill="#${a.paper[0]}"/>${ground}`;
  const picture = `<svg xmlns="http://www.w3.org/2000/svg" width="${SIZE}" height="${SIZE}">`
    + `${alpha ? '' : paper}${avatar}</svg>`;
  const rgba = new Resvg(picture).render().pixels;
  if (alpha) return Buffer.from(rgba.filter((_, i) => i % 4 === 3));
  const rgb = Buffer.alloc(SIZE * SIZE * 3);
  for (let i = 0; i < SIZE * SIZE; i++) rgba.copy(rgb, 3 * i, 4 * i, 4 * i + 3);
  return rgb;
}

const every = fs.readFileSync(path.join(folder, 'avatars.jsonl'), 'utf8').trim().split('\n').map((l) => JSON.parse(l));
const rows = alpha ? every.filter((row) => row.split === 'heldout') : every;
const name = alpha ? 'alpha' : 'avatars';
const out = fs.openSync(path.join(folder, `${name}.tmp`), 'w');
rows.forEach((row, i) => {
  fs.writeSync(out, draw(row));
  if (i % 500 === 0) process.stderr.write(`\rdrawing ${i} of ${rows.length}`);
});
fs.closeSync(out);
fs.renameSync(path.join(folder, `${name}.tmp`), path.join(folder, `${name}.bin`));
process.stderr.write(`\rdrew ${rows.length} pictures\n`);
