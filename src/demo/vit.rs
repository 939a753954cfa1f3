//! The forward pass of the zoo's encoder, a CLIP vision transformer: images in, features out.
//!
//! The judge is `features` in the zoo's `evaluate.py`; the names of the steps are its.

use super::lanes::{LANES, Lanes, add_bias, add_product, attend, layer_norm, quick_gelu};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The tensors of one encoder by name, row-major.
pub type Parameters = BTreeMap<String, Vec<f32>>;

/// The sizes of an encoder: what its `config.json` says of them.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    hidden_size: usize,
    intermediate_size: usize,
    projection_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    image_size: usize,
    patch_size: usize,
    layer_norm_eps: f32,
    image_mean: f32,
    image_std: f32,
}

impl Config {
    /// The sizes in the `config.json` in `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Config, String> {
        let config: Config = serde_json::from_slice(bytes).map_err(|e| format!("config.json: {e}"))?;
        for (name, whole, part) in [
            ("num_attention_heads", config.hidden_size, config.num_attention_heads),
            ("patch_size", config.image_size, config.patch_size),
        ] {
            if part == 0 || whole == 0 || !whole.is_multiple_of(part) {
                return Err(format!("config.json: {name} is {part}, expected a divisor of {whole}"));
            }
        }
        if config.intermediate_size == 0 || config.projection_dim == 0 {
            return Err("config.json: intermediate_size and projection_dim must be at least 1".to_owned());
        }
        Ok(config)
    }

    /// Pixels along each side of an image.
    pub fn image_size(&self) -> usize {
        self.image_size
    }

    /// Features of an image.
    pub fn features(&self) -> usize {
        self.projection_dim
    }

    /// Tokens of an image: one per patch and the class token.
    fn tokens(&self) -> usize {
        let grid = self.image_size / self.patch_size;
        grid * grid + 1
    }
}

/// The weights of one encoder, found and measured: what [`Network::features`] computes with.
#[derive(Debug)]
pub struct Network<'a> {
    config: &'a Config,
    patch_embedding: &'a [f32],
    class_embedding: &'a [f32],
    position_embedding: &'a [f32],
    pre_norm: Affine<'a>,
    layers: Vec<Layer<'a>>,
    post_norm: Affine<'a>,
    projection: &'a [f32],
}

#[derive(Debug)]
struct Layer<'a> {
    norm1: Affine<'a>,
    q: Affine<'a>,
    k: Affine<'a>,
    v: Affine<'a>,
    out: Affine<'a>,
    norm2: Affine<'a>,
    fc1: Affine<'a>,
    fc2: Affine<'a>,
}

/// A weight and a bias.
#[derive(Debug)]
struct Affine<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
}

impl Affine<'_> {
    /// `out += weight . x + bias`.
    fn add(&self, x: &[Lanes], out: &mut [Lanes]) {
        add_product(self.weight, x, out);
        add_bias(self.bias, out);
    }

    /// `out = weight . x + bias`.
    fn apply(&self, x: &[Lanes], out: &mut [Lanes]) {
        out.fill([0.0; LANES]);
        self.add(x, out);
    }

    /// `out = layer_norm(x)`.
    fn norm(&self, epsilon: f32, x: &[Lanes], out: &mut [Lanes]) {
        layer_norm(self.weight, self.bias, epsilon, x, out);
    }
}

impl<'a> Network<'a> {
    /// The encoder of `config` with `parameters`.
    ///
    /// # Panics
    /// If a tensor is missing or has another number of elements: a merge keeps the tensors of its base.
    pub fn new(config: &'a Config, parameters: &'a Parameters) -> Network<'a> {
        let get = |name: String, count: usize| {
            let tensor = parameters.get(&name).unwrap_or_else(|| panic!("the encoder has no tensor `{name}`"));
            assert_eq!(tensor.len(), count, "elements of tensor `{name}`");
            tensor.as_slice()
        };
        let affine = |name: String, outputs: usize, inputs: usize| Affine {
            weight: get(format!("{name}.weight"), outputs * inputs),
            bias: get(format!("{name}.bias"), outputs),
        };
        let (d, mlp) = (config.hidden_size, config.intermediate_size);
        let layer = |i: usize| {
            let part = |name: &str, outputs, inputs| {
                affine(format!("vision_model.encoder.layers.{i}.{name}"), outputs, inputs)
            };
            Layer {
                norm1: part("layer_norm1", d, 1),
                q: part("self_attn.q_proj", d, d),
                k: part("self_attn.k_proj", d, d),
                v: part("self_attn.v_proj", d, d),
                out: part("self_attn.out_proj", d, d),
                norm2: part("layer_norm2", d, 1),
                fc1: part("mlp.fc1", mlp, d),
                fc2: part("mlp.fc2", d, mlp),
            }
        };
        let embedding = |name: &str, count| get(format!("vision_model.embeddings.{name}"), count);
        Network {
            config,
            patch_embedding: embedding("patch_embedding.weight", d * config.patch_size * config.patch_size),
            class_embedding: embedding("class_embedding", d),
            position_embedding: embedding("position_embedding.weight", config.tokens() * d),
            // The name's spelling is CLIP's.
            pre_norm: affine("vision_model.pre_layrnorm".to_owned(), d, 1),
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            post_norm: affine("vision_model.post_layernorm".to_owned(), d, 1),
            projection: get("visual_projection.weight".to_owned(), config.projection_dim * d),
        }
    }

    /// The features of up to [`LANES`] images, which lie in `images` one after the other; lanes without image are noise.
    pub fn features(&self, images: &[u8]) -> Vec<Lanes> {
        let (d, tokens, epsilon) = (self.config.hidden_size, self.config.tokens(), self.config.layer_norm_eps);
        let head = d / self.config.num_attention_heads;
        let zeros = |count: usize| vec![[0.0; LANES]; count];
        let mut x = self.embed(images);
        let (mut q, mut k, mut v) = (zeros(tokens * d), zeros(tokens * d), zeros(tokens * d));
        let (mut h, mut hidden, mut scores) = (zeros(d), zeros(self.config.intermediate_size), zeros(tokens));
        for (i, layer) in self.layers.iter().enumerate() {
            for t in (0..tokens).map(|t| t * d..(t + 1) * d) {
                layer.norm1.norm(epsilon, &x[t.clone()], &mut h);
                layer.q.apply(&h, &mut q[t.clone()]);
                layer.k.apply(&h, &mut k[t.clone()]);
                layer.v.apply(&h, &mut v[t]);
            }
            // Of the last layer's tokens only the first, the class token, is looked at.
            let asked = if i + 1 == self.layers.len() { 1 } else { tokens };
            for (x, q) in x.chunks_exact_mut(d).zip(q.chunks_exact(d)).take(asked) {
                for (at, (q, out)) in q.chunks_exact(head).zip(h.chunks_exact_mut(head)).enumerate() {
                    attend(q, &k[at * head..], &v[at * head..], d, &mut scores, out);
                }
                layer.out.add(&h, x);
                layer.norm2.norm(epsilon, x, &mut h);
                layer.fc1.apply(&h, &mut hidden);
                quick_gelu(&mut hidden);
                layer.fc2.add(&hidden, x);
            }
        }
        self.post_norm.norm(epsilon, &x[..d], &mut h);
        let mut features = zeros(self.config.projection_dim);
        add_product(self.projection, &h, &mut features);
        features
    }

    /// The tokens of `images`: the class token, then one per patch.
    fn embed(&self, images: &[u8]) -> Vec<Lanes> {
        let Config { hidden_size: d, image_size: side, patch_size, layer_norm_eps, .. } = *self.config;
        assert!(images.len() <= LANES * side * side);
        let mut pixels = vec![[0.0; LANES]; side * side];
        for (lane, image) in images.chunks_exact(side * side).enumerate() {
            for (pixel, &value) in pixels.iter_mut().zip(image) {
                pixel[lane] = (f32::from(value) / 255.0 - self.config.image_mean) / self.config.image_std;
            }
        }
        let mut tokens = vec![[0.0; LANES]; self.config.tokens() * d];
        for (i, token) in tokens.chunks_exact_mut(d).enumerate() {
            let mut sum = vec![[0.0; LANES]; d];
            if i == 0 {
                add_bias(self.class_embedding, &mut sum);
            } else {
                let (row, column) = ((i - 1) / (side / patch_size), (i - 1) % (side / patch_size));
                let rows = pixels.chunks_exact(side).skip(row * patch_size).take(patch_size);
                let patch: Vec<Lanes> = rows.flat_map(|r| &r[column * patch_size..][..patch_size]).copied().collect();
                add_product(self.patch_embedding, &patch, &mut sum);
            }
            add_bias(&self.position_embedding[i * d..(i + 1) * d], &mut sum);
            self.pre_norm.norm(layer_norm_eps, &sum, token);
        }
        tokens
    }
}
